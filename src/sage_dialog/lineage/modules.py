"""Python files parsed into definitions, and the names that a definition uses."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
_COMPOUND = (ast.If, ast.Try, ast.TryStar, ast.With, ast.For, ast.While)

Chain = tuple[str, ...]  # the names of `schemas.SITUATIONS.names`


@dataclass
class Module:
    """A Python file by its definitions.

    Attributes:
        definitions: the statements that define a name.
        imports: the module, and the name in it, that an import binds to a name.
        loaded: the same in full, also for `import a.b`, which binds only `a`.
        stars: modules of `from module import *`.
        effects: statements that define nothing.
    """

    name: str
    package: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Chain] = field(default_factory=dict)
    loaded: list[Chain] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)
    effects: list[ast.stmt] = field(default_factory=list)

    @classmethod
    def parse(cls, name: str, file: Path) -> Module:
        """Parse a file. Raises SyntaxError if it is not Python."""
        module = cls(name, name if file.name == "__init__.py" else name.rpartition(".")[0])
        for statement in _without_docstrings(ast.parse(file.read_bytes(), str(file)).body):
            module._add(statement)
        return module

    def _add(self, statement: ast.stmt) -> None:
        if isinstance(statement, _DEFINITIONS):
            self.definitions.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, _IMPORTS):
            _add_import(self, statement, self.package)
        elif isinstance(statement, _COMPOUND):
            self._add_compound(statement)
        elif not isinstance(statement, ast.Pass):
            nodes = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
            names = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
            for name in names:
                self.definitions.setdefault(name, []).append(statement)
            if not names:
                self.effects.append(statement)

    def _add_compound(self, statement: ast.stmt) -> None:
        """Add an `if`, `try`, `with` or loop, which as a whole defines the names of its statements."""
        inner = Module(self.name, self.package)
        for part in (statement, *getattr(statement, "handlers", ())):
            for block in ("body", "orelse", "finalbody"):
                for one in getattr(part, block, ()):
                    inner._add(one)
        self.imports |= inner.imports
        self.stars += inner.stars
        self.loaded += inner.loaded
        for name in inner.definitions:
            self.definitions.setdefault(name, []).append(statement)
        if inner.effects:
            self.effects.append(statement)


@dataclass
class Uses:
    """The names and strings that statements use, and what they import.

    Attributes:
        chains: dotted names, split at the dots.
        texts: strings; a string passed to a call also as "string()".
    """

    chains: set[Chain] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    imports: dict[str, Chain] = field(default_factory=dict)
    loaded: list[Chain] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)


def find_uses(statements: Iterable[ast.AST], package: str) -> Uses:
    """Return what statements of a module of `package` use. Quoted annotations are parsed."""
    uses = Uses()
    waiting = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, _IMPORTS):
            _add_import(uses, node, package)
        elif isinstance(node, ast.Name | ast.Attribute):
            inner: ast.expr = node
            names: list[str] = []
            while isinstance(inner, ast.Attribute):
                names.insert(0, inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name):
                uses.chains.add((inner.id, *names))
            else:
                waiting.append(inner)
        else:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                uses.texts.add(node.value)
            elif isinstance(node, ast.Call):
                uses.texts |= {f"{text}()" for text in _strings(node.args)}
            for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
                waiting += _parse_quoted(annotation) if annotation else ()
            waiting += ast.iter_child_nodes(node)
    return uses


def source_form(value: object) -> str:
    """Return a text of a syntax tree that is the same for equal code in every version of Python.

    `ast.unparse` and `ast.dump` are not: quotes in f-strings, empty parts of them and empty fields differ.
    """
    if isinstance(value, ast.JoinedStr):
        value = ast.JoinedStr([part for part in value.values if getattr(part, "value", None) != ""])
    if isinstance(value, ast.AST):
        fields = (
            f"{name}={source_form(inner)}"
            for name, inner in ast.iter_fields(value)
            if (isinstance(value, ast.Constant) and name == "value")
            or (inner is not None and inner != [] and name not in ("ctx", "kind", "type_comment", "type_ignores"))
        )
        return f"{type(value).__name__}({','.join(fields)})"
    if isinstance(value, list):
        return f"[{','.join(map(source_form, value))}]"
    return ascii(value)


def _strings(nodes: Iterable[ast.AST]) -> Iterator[str]:
    return (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _parse_quoted(annotation: ast.AST) -> Iterator[ast.AST]:
    for text in _strings(ast.walk(annotation)):
        try:
            yield ast.parse(text, mode="eval").body
        except SyntaxError:  # a value of a Literal
            continue


def _add_import(target: Module | Uses, statement: ast.Import | ast.ImportFrom, package: str) -> None:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            bound = alias.name if alias.asname else alias.name.partition(".")[0]
            target.imports[alias.asname or bound] = (bound,)
            target.loaded.append((alias.name,))
        return
    module = statement.module or ""
    if statement.level:
        outer = package.split(".")
        module = ".".join([*outer[: len(outer) - statement.level + 1], *filter(None, [module])])
    for alias in statement.names:
        target.loaded.append((module, alias.name))
        if alias.name == "*":
            target.stars.append(module)
        else:
            target.imports[alias.asname or alias.name] = (module, alias.name)


def _without_docstrings(statements: list[ast.stmt]) -> list[ast.stmt]:
    """Return statements without constant expressions: docstrings, also those below an attribute."""
    kept = [one for one in statements if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    for statement in kept:
        for part in (statement, *getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            for block in ("body", "orelse", "finalbody"):
                if body := getattr(part, block, None):
                    setattr(part, block, _without_docstrings(body) or [ast.Pass()])
    return kept
