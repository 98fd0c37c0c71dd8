"""Import of single NLTK modules.

`import nltk` imports all of NLTK, and with it scipy and scikit-learn: more than a second and 180 MB in every worker
process, for a tokenizer and a sentiment analyser that need none of them.
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
    """Import modules such as `nltk.sentiment.vader` without running the `__init__` of their packages.

    On exit `sys.modules` is as before, so that a later `import nltk` works. If NLTK is imported already, it is used.
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
    """Return a module such as "nltk.tokenize.casual"."""
    with bare_nltk():
        return import_module(name)
