"""The modules of NLTK that this project uses, without the rest of it.

`import nltk` runs all of NLTK's packages, and with them scipy, pandas and scikit-learn where they are installed: more
than a second and 180 MB in every worker process, for a tokenizer and a sentiment analyser that need none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType

_PACKAGES = ("nltk", "nltk.sentiment", "nltk.tokenize", "nltk.translate")
_kept: dict[str, ModuleType] = {}


@contextmanager
def bare_nltk() -> Iterator[None]:
    """Within it, modules such as `nltk.sentiment.vader` are imported without the code of the packages they stand in.

    Behind it `sys.modules` is as it was, so that a later `import nltk` is whole. Where NLTK is imported already, that
    is what is used.
    """
    if "nltk" in sys.modules:
        yield
        return
    if not _kept:
        path = None
        for package in _PACKAGES:
            spec = PathFinder.find_spec(package, path)
            if spec is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
            _kept[package] = module_from_spec(spec)
            path = _kept["nltk"].__path__
    sys.modules.update(_kept)
    try:
        yield
    finally:
        added = [name for name in sys.modules if name == "nltk" or name.startswith("nltk.")]
        _kept.update({name: sys.modules.pop(name) for name in added})


def nltk_module(name: str) -> ModuleType:
    """A module such as "nltk.tokenize.casual"."""
    with bare_nltk():
        return import_module(name)
