"""A file of code taken apart into its definitions, and the names that one uses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
_COMPOUND = (ast.If, ast.Try, ast.TryStar, ast.With, ast.For, ast.While)

Chain = tuple[str, ...]  # the names of `schemas.SITUATIONS.names`


@dataclass
class Module:
    """A file, apart into its definitions."""

    name: str
    package: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Chain] = field(default_factory=dict)  # by the name it gets here: module, and a name in it
    loaded: list[Chain] = field(default_factory=list)  # the same in full, of `import a.b` too, which binds only `a`
    stars: list[str] = field(default_factory=list)  # modules whose every name is taken
    effects: list[ast.stmt] = field(default_factory=list)

    @classmethod
    def read(cls, name: str, file: Path) -> Module:
        """Raises SyntaxError where the file is no Python."""
        module = cls(name, name if file.name == "__init__.py" else name.rpartition(".")[0])
        for statement in bare(ast.parse(file.read_bytes(), str(file)).body):
            module.add(statement)
        return module

    def add(self, statement: ast.stmt) -> None:
        """Sort one statement of the file in."""
        if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
            self.definitions.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, _IMPORTS):
            for name, source in imported(statement, self.package):
                if name == "*":
                    self.stars.append(source[0])
                else:
                    self.imports[name] = source
            self.loaded += _loaded(statement, self.package)
        elif isinstance(statement, _COMPOUND):
            self._add_compound(statement)
        elif not isinstance(statement, ast.Pass):
            names = {one.id for one in ast.walk(statement) if isinstance(one, ast.Name) and _is_stored(one)}
            for name in names:
                self.definitions.setdefault(name, []).append(statement)
            if not names:
                self.effects.append(statement)

    def _add_compound(self, statement: ast.stmt) -> None:
        """What stands in it is bound by it as a whole."""
        inner = Module(self.name, self.package)
        for one in _statements(statement):
            inner.add(one)
        self.imports |= inner.imports
        self.stars += inner.stars
        self.loaded += inner.loaded
        for name in inner.definitions:
            self.definitions.setdefault(name, []).append(statement)
        if inner.effects:
            self.effects.append(statement)


def bare(statements: list[ast.stmt]) -> list[ast.stmt]:
    """Without strings that stand for themselves: docstrings, and what is written below an attribute."""
    kept = [one for one in statements if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    for one in kept:
        for inner in (one, *getattr(one, "handlers", ()), *getattr(one, "cases", ())):
            for name in ("body", "orelse", "finalbody"):
                if body := getattr(inner, name, None):
                    setattr(inner, name, bare(body) or [ast.Pass()])
    return kept


class Uses(ast.NodeVisitor):
    """The names and strings that a definition uses (a string given to a call as "x()" too), and what it imports."""

    def __init__(self, package: str) -> None:
        self._package = package
        self.chains: set[Chain] = set()
        self.texts: set[str] = set()
        self.imports: dict[str, Chain] = {}
        self.stars: list[str] = []
        self.loaded: list[Chain] = []

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for name, source in imported(node, self._package):
            if name == "*":
                self.stars.append(source[0])
            else:
                self.imports[name] = source
        self.loaded += _loaded(node, self._package)

    visit_ImportFrom = visit_Import  # noqa: N815

    def visit_Name(self, node: ast.Name) -> None:
        self.chains.add((node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        names: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self.chains.add((inner.id, *reversed(names)))
        else:
            self.visit(inner)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.texts.add(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        for given in node.args:
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                self.texts.add(f"{given.value}()")
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self._annotation(node.annotation)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotation(node.annotation)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._annotation(node.returns)
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def _annotation(self, annotation: ast.expr | None) -> None:
        """One in quotes is read as what it says."""
        for node in ast.walk(annotation) if annotation else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                try:
                    self.visit(ast.parse(node.value, mode="eval").body)
                except SyntaxError:  # such as a value of a Literal
                    continue
        if annotation:
            self.visit(annotation)


def imported(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Chain]]:
    """The names that an import in a module of `package` binds, and to what: a module, or also a name in it."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield (alias.asname, (alias.name,)) if alias.asname else ((top := alias.name.partition(".")[0]), (top,))
        return
    module = statement.module or ""
    if statement.level:
        outer = package.split(".")
        module = ".".join([*outer[: len(outer) - statement.level + 1], *filter(None, [module])])
    for alias in statement.names:
        yield alias.asname or alias.name, (module, alias.name)


def _loaded(statement: ast.Import | ast.ImportFrom, package: str) -> list[Chain]:
    if isinstance(statement, ast.Import):
        return [(alias.name,) for alias in statement.names]
    return [source for _, source in imported(statement, package)]


def _statements(compound: ast.stmt) -> Iterator[ast.stmt]:
    """The statements inside an `if`, `try`, `with` or loop."""
    for name in ("body", "orelse", "finalbody"):
        yield from getattr(compound, name, ())
    for handler in getattr(compound, "handlers", ()):
        yield from handler.body


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)
