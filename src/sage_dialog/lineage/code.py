"""Which definitions a function or class can reach, and a digest of each: so that only what its code decides is stale.

The code is read, never run. Not modules but their definitions are followed, by the names that each uses, annotations
included (from them Kedro builds what a node is given): a new schema makes nothing stale that does not use it. Where a
name cannot be followed, the whole module it comes from counts. Comments, docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sage_dialog.lineage.definitions import Chain, Module, Uses

DATA = frozenset({".toml", ".txt", ".yml", ".yaml", ".json", ".j2", ".jinja", ".css", ".js"})
"""Suffixes of the files beside the code that decide what it does: word lists, templates."""

EFFECTS = "(module)"
"""In place of a definition: the statements of a module that define nothing and run as it is imported."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")

Place = tuple[str, str]  # a module, a definition of it


def reached(target: Callable[..., Any]) -> dict[str, str]:
    """What of the project `target`, a function or class, can reach, itself included.

    Its own package is the project, and this one. Files are read once in a process.

    Returns:
        By "module:definition", or the path of a data file from the folder of its package, a digest.
    """
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target)
    if not hasattr(target, "__qualname__"):
        target = type(target)
    return _code(target.__module__.partition(".")[0]).reached(target.__module__, target.__qualname__.partition(".")[0])


def named(path: str) -> dict[str, str]:
    """As `reached`, of what a dotted path names in a configuration; nothing is imported.

    Of what is not there, or has no source, nothing can be reached.
    """
    package, *inner = path.split(".")
    code = _code(package)
    for length in range(len(inner), 0, -1):
        if found := code.reached(".".join((package, *inner[: length - 1])), inner[length - 1]):
            return found
    return {}


def digest(definitions: Mapping[str, str]) -> str:
    """One for all of them."""
    return hashlib.sha256(json.dumps(definitions, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code(package: str) -> Code:
    return Code({name: path for name in {package, __name__.partition(".")[0]} if (path := _place(name))})


def _place(package: str) -> Path | None:
    """Where a top-level package or module lies, without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # such as __main__
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    return path.parent if path.name == "__init__.py" else path


class Code:
    """The files of some packages, each read when something reaches it.

    Args:
        places: by top-level name, the folder of a package or the file of a module.
    """

    def __init__(self, places: Mapping[str, Path]) -> None:
        self._places = dict(places)
        self._modules: dict[str, Module | None] = {}
        self._found: dict[Place, tuple[frozenset[Place], frozenset[str], str]] = {}

    def reached(self, module: str, name: str) -> dict[str, str]:
        """What a definition of a module can reach; see the function of this name."""
        waiting = sorted(self._down(module, (name,)))
        seen: dict[Place, str] = {}
        words: dict[str, set[str]] = {}
        while waiting:
            place = waiting.pop()
            if place not in seen:
                leads, texts, seen[place] = self._definition(place)
                words.setdefault(place[0], set()).update(texts)
                waiting += leads
        # A module without statements that define nothing has nothing to run.
        code = {f"{module}:{name}": value for (module, name), value in seen.items() if value}
        return dict(sorted((code | self._data(words)).items()))

    def _definition(self, place: Place) -> tuple[frozenset[Place], frozenset[str], str]:
        """Where it leads, the words in it, its digest."""
        if place not in self._found:
            module = self._module(place[0])
            assert module is not None
            statements = module.effects if place[1] == EFFECTS else module.definitions[place[1]]
            uses = Uses(module.package)
            for statement in statements:
                uses.visit(statement)
            leads = {(module.name, EFFECTS)} - {place}
            for chain in uses.chains:
                leads |= self._follow(module, chain, uses.imports)
            for source in uses.loaded:
                leads |= self._effects(source)
            for star in uses.stars:
                leads |= self._whole(star)
            for text in uses.texts:
                if _DOTTED.fullmatch(text) and self._module(first := text.partition(".")[0]):
                    leads |= self._down(first, tuple(text.split(".")[1:]))
            if place[1] == EFFECTS:
                for source in module.loaded:
                    leads |= self._effects(source)
                if parent := module.name.rpartition(".")[0]:
                    leads.add((parent, EFFECTS))
            text = "\n".join(ast.unparse(statement) for statement in statements)
            value = hashlib.sha256(text.encode()).hexdigest() if text else ""
            self._found[place] = frozenset(leads), frozenset(uses.texts), value
        return self._found[place]

    def _follow(self, module: Module, chain: Chain, local: Mapping[str, Chain]) -> set[Place]:
        """Where a chain of names leads that is used in a module; `local` are imports beside those of the module."""
        first, rest = chain[0], chain[1:]
        found: set[Place] = set()
        if first in local:
            return self._source(local[first], rest)
        if first in module.definitions:
            found.add((module.name, first))
        if first in module.imports:
            found |= self._source(module.imports[first], rest)
        return found

    def _source(self, source: Chain, rest: Chain) -> set[Place]:
        module, *name = source
        return self._down(module, (*name, *rest))

    def _down(self, name: str, rest: Chain, seen: frozenset[Chain] = frozenset()) -> set[Place]:
        """Where the names lead that follow a module's."""
        module = self._module(name)
        if module is None or (rest and re.fullmatch("__(?!version)[a-z]+__", rest[0])):  # __file__, __name__
            return set()
        if not rest:
            return self._whole(name)
        here = (name, *rest)
        if here in seen:  # two modules that import from each other
            return set()
        found: set[Place] = {(name, rest[0])} if rest[0] in module.definitions else set()
        if rest[0] in module.imports:  # handed on
            source, *more = module.imports[rest[0]]
            found |= self._down(source, (*more, *rest[1:]), seen | {here}) | {(name, EFFECTS)}
        if found:
            return found
        if self._module(f"{name}.{rest[0]}"):
            return self._down(f"{name}.{rest[0]}", rest[1:], seen | {here})
        return set() if rest[0] in module.imports else self._whole(name)

    def _whole(self, name: str, seen: frozenset[str] = frozenset()) -> set[Place]:
        """Every definition of a module."""
        module = self._module(name)
        if module is None or name in seen:
            return set()
        found = {(name, one) for one in (*module.definitions, EFFECTS)}
        for star in module.stars:
            found |= self._whole(star, seen | {name})
        return found

    def _effects(self, source: Chain) -> set[Place]:
        """What runs when something is imported."""
        return {(name, EFFECTS) for name in (source[0], ".".join(source)) if self._module(name)}

    def _module(self, name: str) -> Module | None:
        """None of what is not ours."""
        if name not in self._modules:
            top, *inner = name.split(".")
            file = self._file(top, inner)
            self._modules[name] = Module.read(name, file) if file else None
        return self._modules[name]

    def _file(self, top: str, inner: list[str]) -> Path | None:
        place = self._places.get(top)
        if place is None or place.is_file():
            return None if inner else place
        folder = place.joinpath(*inner)
        named = [folder / "__init__.py", *([folder.with_suffix(".py")] if inner else [])]
        return next((file for file in named if file.is_file()), None)

    def _data(self, words: Mapping[str, set[str]]) -> dict[str, str]:
        """The data files that are named, in code of their package or one around it, or in such a file."""
        found: dict[str, str] = {}
        for package, files in self._data_files.items():
            around = [texts for name, texts in words.items() if f"{package}.".startswith(f"{self._package_of(name)}.")]
            named = [file for file in files if any(_is_named(file, texts) for texts in around)]
            while named:
                file = named.pop()
                key = self._shown(package, file)
                if key not in found:
                    content = file.read_bytes()
                    found[key] = hashlib.sha256(content).hexdigest()
                    named += [other for other in files if other.name.encode() in content]
        return found

    def _package_of(self, module: str) -> str:
        found = self._module(module)
        assert found is not None
        return found.package

    @functools.cached_property
    def _data_files(self) -> dict[str, list[Path]]:
        """By package, the files in its folder that no package further down holds."""
        files: dict[str, list[Path]] = {}
        for top, place in self._places.items():
            for file in sorted(place.rglob("*")) if place.is_dir() else ():
                if file.suffix in DATA and file.is_file():
                    folder = file.parent
                    while folder != place and not (folder / "__init__.py").exists():
                        folder = folder.parent
                    package = ".".join((top, *folder.relative_to(place).parts))
                    files.setdefault(package, []).append(file)
        return files

    def _shown(self, package: str, file: Path) -> str:
        top = package.partition(".")[0]
        return f"{top}/{file.relative_to(self._places[top]).as_posix()}"


def _is_named(file: Path, texts: set[str]) -> bool:
    """Whether the strings of a module's definitions name a file, or its folder and its stem.

    A stem alone is often just a word: it counts where it is given to a call, as in read_tables("feelings").
    """
    stem = file.name.partition(".")[0]
    return file.name in texts or f"{stem}()" in texts or {file.parent.name, stem} <= texts
