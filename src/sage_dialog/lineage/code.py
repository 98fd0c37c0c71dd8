"""Digests of the definitions that a node can reach, so that a code change makes stale only what it affects.

Definitions are followed by the names that they use, annotations included: Kedro builds typed node inputs from them.
Where a name cannot be followed, such as `getattr(module, name)`, the whole module counts. Libraries follow code by
module only (grimp), and a module such as one of schemas would then make every table stale.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from sage_dialog.lineage.modules import Chain, Module, find_uses, source_form

DATA_SUFFIXES = frozenset({".toml", ".txt", ".yml", ".yaml", ".json", ".j2", ".jinja", ".css", ".js"})
"""Suffixes of files in a package that count as code: word lists, templates."""

_DIGITS = 16  # of a sha256: enough to tell versions of one definition apart

EFFECTS = "(module)"
"""The name for the statements of a module that define nothing and run on import."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
_DUNDER = re.compile("__(?!version)[a-z]+__")  # __file__, __name__

Definition = tuple[str, str]  # module, name


def code_of_callable(target: Callable[..., Any]) -> dict[str, str]:
    """Return the digests of all project code that a function or class can reach, itself included.

    Project code is that of the target's own top-level package and of this one. Files are read once per process.

    Returns:
        Digests by "module:definition", or by the path of a data file from the folder of its package.
    """
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target)
    if not hasattr(target, "__qualname__"):
        target = type(target)
    index = _index(target.__module__.partition(".")[0])
    return index.reachable(target.__module__, target.__qualname__.partition(".")[0])


def code_of_path(path: str) -> dict[str, str]:
    """Return the same for a dotted path in a configuration, without importing it; empty where it has no source."""
    package, *inner = path.split(".")
    index = _index(package)
    for length in range(len(inner), 0, -1):
        if found := index.reachable(".".join((package, *inner[: length - 1])), inner[length - 1]):
            return found
    return {}


def digest(definitions: Mapping[str, str]) -> str:
    """Return one digest for a set of digests by name."""
    return _digest(json.dumps(definitions, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


@functools.cache
def _index(package: str) -> CodeIndex:
    """Return the index of a top-level package or module, and of this one, without importing them."""
    sources = {}
    for name in (package, __name__.partition(".")[0]):
        with contextlib.suppress(ImportError, ValueError):  # __main__
            spec = importlib.util.find_spec(name)
            if spec and spec.origin and spec.origin.endswith(".py"):
                path = Path(spec.origin)
                sources[name] = path.parent if path.name == "__init__.py" else path
    return CodeIndex(sources)


class CodeIndex:
    """The definitions of some packages and what each of them leads to; a file is parsed when it is reached.

    Args:
        sources: the folder of a package, or the file of a module, by top-level name.
    """

    def __init__(self, sources: Mapping[str, Path]) -> None:
        self._sources = dict(sources)
        self._modules: dict[str, Module | None] = {}
        self._definitions: dict[Definition, tuple[frozenset[Definition], frozenset[str], str]] = {}
        self._reached: dict[Definition, dict[str, str]] = {}

    def reachable(self, module: str, name: str) -> dict[str, str]:
        """Return the digests of what a definition of a module can reach; see `code_of_callable`."""
        if (module, name) not in self._reached:
            self._reached[module, name] = self._reach(module, name)
        return dict(self._reached[module, name])

    def _reach(self, module: str, name: str) -> dict[str, str]:
        waiting = sorted(self._resolve(module, (name,)))
        digests: dict[Definition, str] = {}
        texts: dict[str, set[str]] = {}
        while waiting:
            definition = waiting.pop()
            if definition not in digests:
                targets, words, digests[definition] = self._read(definition)
                texts.setdefault(definition[0], set()).update(words)
                waiting += targets
        # The digest of EFFECTS is empty where a module has no such statements.
        code = {f"{module}:{name}": value for (module, name), value in digests.items() if value}
        return dict(sorted((code | self._data(texts)).items()))

    def _read(self, definition: Definition) -> tuple[frozenset[Definition], frozenset[str], str]:
        """Return the definitions that one leads to, the strings in it, its digest."""
        if definition not in self._definitions:
            module = self._module(definition[0])
            assert module is not None
            is_effects = definition[1] == EFFECTS
            statements = module.effects if is_effects else module.definitions[definition[1]]
            uses = find_uses(statements, module.package)
            targets = {(module.name, EFFECTS)} - {definition}
            for chain in uses.chains:
                targets |= self._follow(module, chain, uses.imports)
            for source in (*uses.loaded, *(module.loaded if is_effects else ())):
                targets |= {(name, EFFECTS) for name in (source[0], ".".join(source)) if self._module(name)}
            for star in uses.stars:
                targets |= self._whole(star)
            for text in filter(_DOTTED.fullmatch, uses.texts):
                first, *rest = text.split(".")
                targets |= self._resolve(first, tuple(rest))
            if is_effects and (parent := module.name.rpartition(".")[0]):
                targets.add((parent, EFFECTS))
            text = "\n".join(map(source_form, statements))
            value = _digest(text.encode()) if text else ""
            self._definitions[definition] = frozenset(targets), frozenset(uses.texts), value
        return self._definitions[definition]

    def _follow(self, module: Module, chain: Chain, local: Mapping[str, Chain]) -> set[Definition]:
        """Return what a chain of names in a module leads to; `local` are imports inside of definitions."""
        first, rest = chain[0], chain[1:]
        if first in local:
            return self._resolve(local[first][0], (*local[first][1:], *rest))
        found = {(module.name, first)} if first in module.definitions else set()
        if first in module.imports:
            source, *names = module.imports[first]
            found |= self._resolve(source, (*names, *rest))
        if not found and (star := self._star(module, first)):
            found |= self._resolve(star, chain)
        return found

    def _star(self, module: Module, name: str, seen: frozenset[str] = frozenset()) -> str | None:
        """Return the module from which `from module import *` binds a name, directly or by another such import."""
        for star in module.stars:
            source = self._module(star)
            if source is None or star in seen:
                continue
            if name in source.definitions or name in source.imports or self._star(source, name, seen | {star}):
                return star
        return None

    def _resolve(self, name: str, rest: Chain, seen: frozenset[Chain] = frozenset()) -> set[Definition]:
        """Return the definitions that the names `rest` stand for in a module."""
        module = self._module(name)
        if module is None or (rest and _DUNDER.fullmatch(rest[0])):
            return set()
        if not rest:
            return self._whole(name)
        here = (name, *rest)
        if here in seen:  # two modules that import from each other
            return set()
        first = rest[0]
        found: set[Definition] = {(name, first)} if first in module.definitions else set()
        if first in module.imports:
            source, *more = module.imports[first]
            found |= self._resolve(source, (*more, *rest[1:]), seen | {here}) | {(name, EFFECTS)}
        if not found and (star := self._star(module, first)):
            found |= self._resolve(star, rest, seen | {here}) | {(name, EFFECTS)}
        if found:
            return found
        if self._module(f"{name}.{first}"):
            return self._resolve(f"{name}.{first}", rest[1:], seen | {here})
        return set() if first in module.imports else self._whole(name)

    def _whole(self, name: str, seen: frozenset[str] = frozenset()) -> set[Definition]:
        """Return every definition of a module."""
        module = self._module(name)
        if module is None or name in seen:
            return set()
        found = {(name, one) for one in (*module.definitions, EFFECTS)}
        return found.union(*(self._whole(star, seen | {name}) for star in module.stars))

    def _module(self, name: str) -> Module | None:
        """Return a module of the packages, None for any other."""
        if name not in self._modules:
            file = self._file(*name.split("."))
            self._modules[name] = Module.parse(name, file) if file else None
        return self._modules[name]

    def _file(self, top: str, *inner: str) -> Path | None:
        source = self._sources.get(top)
        if source is None or source.is_file():
            return None if inner else source
        folder = source.joinpath(*inner)
        candidates = [folder / "__init__.py", *([folder.with_suffix(".py")] if inner else [])]
        return next((file for file in candidates if file.is_file()), None)

    def _data(self, texts: Mapping[str, Collection[str]]) -> dict[str, str]:
        """Return the digests of data files that are named: in full anywhere, by stem near them, or in such a file.

        Args:
            texts: the strings in the code that was reached, by module.
        """
        found: dict[str, str] = {}
        packages = {name: module.package for name in texts if (module := self._module(name))}
        for package, files in self._data_files.items():
            near = [
                texts[name]
                for name, other in packages.items()
                if f"{package}.".startswith(f"{other}.") or f"{other}.".startswith(f"{package}.")
            ]
            waiting = [
                file
                for file in files
                if any(_is_named(file, strings) for strings in near)
                or any(file.name in strings for strings in texts.values())
            ]
            top = package.partition(".")[0]
            while waiting:
                file = waiting.pop()
                key = f"{top}/{file.relative_to(self._sources[top]).as_posix()}"
                if key not in found:
                    content = file.read_bytes()
                    found[key] = _digest(content)
                    waiting += [other for other in files if other.name.encode() in content]
        return found

    @functools.cached_property
    def _data_files(self) -> dict[str, list[Path]]:
        """The data files of each package, those of subpackages left out."""
        files: dict[str, list[Path]] = {}
        for top, source in self._sources.items():
            for file in sorted(source.rglob("*")) if source.is_dir() else ():
                if file.suffix in DATA_SUFFIXES and file.is_file():
                    folder = file.parent
                    while folder != source and not (folder / "__init__.py").exists():
                        folder = folder.parent
                    files.setdefault(".".join((top, *folder.relative_to(source).parts)), []).append(file)
        return files


def _is_named(file: Path, texts: Collection[str]) -> bool:
    """Return whether strings name a file: its name, its folder and its stem, or its stem as an argument of a call."""
    stem = file.name.partition(".")[0]
    return file.name in texts or f"{stem}()" in texts or {file.parent.name, stem} <= set(texts)
