"""The code that a node can reach, followed by definition, so that a change makes stale only what it affects."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import shutil
import sys
from pathlib import Path

import pytest

import sage_dialog
from sage_dialog.lineage.code import DATA_SUFFIXES, CodeIndex, code_of_callable, code_of_path, digest
from sage_dialog.lineage.modules import Module, source_form
from sage_dialog.pipeline_registry import register_pipelines

SRC = Path(sage_dialog.__file__).parent
ROLES = (
    "sage_dialog.roles.offline.annotator:OfflineAnnotator",
    "sage_dialog.roles.offline.selector:OfflineSelector",
    "sage_dialog.roles.offline.judge:OfflineJudge",
)


class Package:
    """A package on disk, `pack`, whose files are given by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pack"

    def write(self, **files: str) -> Package:
        for name, text in {"__init__.py": "", **files}.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return self

    def reached(self, place: str = "pack.main:start") -> dict[str, str]:
        return CodeIndex({"pack": self.folder}).reachable(*place.split(":"))


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def names(package: Package, **files: str) -> set[str]:
    return set(package.write(**files).reached())


def test_used_definitions_are_followed_and_others_are_not(package: Package) -> None:
    files = {
        "main.py": "from pack.other import used, spare\n\ndef start():\n    return used() + here\n\n"
        "here = there\nthere = 1\n\ndef beside():\n    return spare()\n",
        "other.py": "def used():\n    return 1\n\ndef spare():\n    return 2\n",
    }
    assert names(package, **files) == {"pack.main:start", "pack.main:here", "pack.main:there", "pack.other:used"}


@pytest.mark.parametrize(
    ("start", "found"),
    [
        ("from pack import other\ndef start(): other.used()", "pack.other:used"),
        ("import pack.other\ndef start(): pack.other.used()", "pack.other:used"),
        ("import pack.other as near\ndef start(): near.used().x", "pack.other:used"),
        ("from .other import used as mine\ndef start(): mine()", "pack.other:used"),
        ("from . import other\ndef start(): other.used()", "pack.other:used"),
        ("def start():\n    from pack.other import used\n    used()", "pack.other:used"),
        ("def start():\n    import pack.other\n    pack.other.used()", "pack.other:used"),
        ("from pack.front import used\ndef start(): used()", "pack.other:used"),
        ("from pack.star import used\ndef start(): used()", "pack.other:used"),
        ("import pack.other\n@pack.other.used\ndef start(): pass", "pack.other:used"),
        ("from pack.other import used\ndef start(x=used): pass", "pack.other:used"),
        ("from pack.other import used\ndef start(x: used): pass", "pack.other:used"),
        ("from pack.other import used\ndef start() -> 'list[used]': pass", "pack.other:used"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.other import used\n"
         "def start(x: used): pass", "pack.other:used"),
        ("from pack.other import used\ndef start():\n    def inner():\n        used()\n    inner()", "pack.other:used"),
        ("from pack.other import used\nclass start(used): pass", "pack.other:used"),
        ("try:\n    from pack.other import used\nexcept ImportError:\n    used = None\ndef start(): used",
         "pack.other:used"),
        ("import importlib\ndef start(): importlib.import_module('pack.other')", "pack.other:used"),
        ("def start(): load_obj('pack.other.used')", "pack.other:used"),
    ],
)  # fmt: skip
def test_every_way_to_a_definition_is_followed(package: Package, start: str, found: str) -> None:
    files = {
        "main.py": start,
        "other.py": "def used(): pass\ndef spare(): pass\n",
        "front.py": "from pack.other import used, spare\n",
        "star.py": "from pack.other import *\n",
    }
    seen = names(package, **files)
    assert found in seen
    if "import_module" not in start and "star" not in start:
        assert "pack.other:spare" not in seen


@pytest.mark.parametrize("use", ["getattr(other, name)", "other.pseudo_counts", "other"])
def test_a_name_that_cannot_be_followed_is_the_whole_module(package: Package, use: str) -> None:
    files = {
        "main.py": f"from pack import other\ndef start(name): {use}",
        "other.py": "def used(): pass\ndef spare(): pass\n",
    }
    assert {"pack.other:used", "pack.other:spare"} <= names(package, **files)


def test_circular_imports_end(package: Package) -> None:
    files = {
        "main.py": "from pack.other import back\ndef start(): back()\n",
        "other.py": "from pack.main import start, lost\ndef back(): start(), lost()\n",
    }
    assert names(package, **files) == {"pack.main:start", "pack.other:back"}


def test_statements_that_run_on_import_count(package: Package) -> None:
    files = {
        "__init__.py": "import os\nos.environ['A'] = '1'\n",
        "main.py": "import pack.filters\nfrom pack.other import used\ndef start(): used()\n",
        "other.py": "def used(): return LIST\nLIST = []\nLIST.append(1)\n",
        "filters.py": "import warnings\nwarnings.simplefilter('ignore')\n",
    }
    assert {"pack:(module)", "pack.other:(module)", "pack.filters:(module)"} <= names(package, **files)


def test_comments_and_docstrings_do_not_count_and_a_number_does(package: Package) -> None:
    before = package.write(
        **{"main.py": 'X = 1\n"""What it is."""\ndef start():\n    """A."""\n    return X\n'}
    ).reached()
    other = '"""Changed."""\nX = 1  # one\n"""Else."""\n\n\ndef start():\n    """B."""\n    # so\n    return (X)\n'
    assert package.write(**{"main.py": other}).reached() == before
    after = package.write(**{"main.py": "X = 2\ndef start():\n    return X\n"}).reached()
    assert {name for name in after if after[name] != before[name]} == {"pack.main:X"}
    assert digest(after) != digest(before)


def test_data_files_count_where_they_are_named(package: Package) -> None:
    files = {
        "main.py": "def start(): read('words'), open('page.html.j2'), {'topics': 1}\ndef other(): read('spare')",
        "lists/words.toml": "",
        "lists/spare.toml": "",
        "lists/topics.toml": "",
        "page.html.j2": "{% include 'part.html.j2' %}",
        "part.html.j2": "",
        "room/__init__.py": "FOLDER = 'forms'\nFORMS = {'one': 'two'}\ndef read(): FOLDER, FORMS, {'words': 1}",
        "room/inner/__init__.py": "def read(): open('part.html.j2')",
        "room/forms/one.jinja": "",
        "room/words.toml": "",
    }
    found = {name for name in names(package, **files) if "/" in name}
    assert found == {"pack/lists/words.toml", "pack/page.html.j2", "pack/part.html.j2", "pack/room/words.toml"}
    assert [name for name in package.reached("pack.room:read") if "/" in name] == ["pack/room/forms/one.jinja"]
    assert [name for name in package.reached("pack.room.inner:read") if "/" in name] == ["pack/part.html.j2"]


def test_names_of_star_imports_are_followed_by_name(package: Package) -> None:
    files = {
        "tables/__init__.py": "from pack.tables.first import *\nfrom pack.tables.second import *\n",
        "tables/first.py": "USED = 1\nSPARE = 2\n",
        "tables/second.py": "from pack.tables.third import *\nOTHER = NESTED\n",
        "tables/third.py": "NESTED = 3\nDEEP = 4\n",
        "main.py": "from pack import tables\nfrom pack.tables import OTHER\ndef start(): return tables.USED, OTHER\n",
    }
    assert names(package, **files) == {
        "pack.main:start", "pack.tables.first:USED", "pack.tables.second:OTHER", "pack.tables.third:NESTED"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "changed"),
    [("f'{x}' f'a{x!r:>{y}}'", "f'{x}' f'b{x!r:>{y}}'"), ("u'é' 'b'", "'éc'"), ("b'x'", "'x'"), ("None", "[]")],
)
def test_the_form_of_code_has_neither_quotes_nor_layout(code: str, changed: str) -> None:
    def form(text: str) -> str:
        return source_form(ast.parse(text).body)

    assert form(code) == form(f"({code.replace(chr(39), chr(34))} )  # comment") != form(changed)


def test_the_form_of_code_is_that_of_every_python() -> None:
    """The digest that Python 3.11, 3.12 and 3.13 give."""
    text = "class A(B[int], k=1):\n    def f(self, *, x: 'int' = None) -> str:\n        return f'{x=}{self:>{x}}{{'\n"
    digest = hashlib.sha256(source_form(ast.parse(text).body).encode()).hexdigest()
    assert digest == "309c633698f01cbb194d69889a870e73a676e28984939f4f525bd09f4641cb54"


def test_partials_closures_and_callable_objects(package: Package, monkeypatch) -> None:
    source = "import functools\ndef make(x):\n    def inner(): return BASE\n    return inner\nBASE = 1\n"
    source += "class Tool:\n    def __call__(self): return BASE\n"
    package.write(**{"main.py": source})
    monkeypatch.syspath_prepend(package.folder.parent)
    main = importlib.import_module("pack.main")
    try:
        for target in (main.make(1), functools.partial(main.make, 1), functools.wraps(main.make)(lambda: 1)):
            assert set(code_of_callable(target)) == {"pack.main:make", "pack.main:BASE"}
        assert set(code_of_callable(main.Tool())) == {"pack.main:Tool", "pack.main:BASE"}
        assert code_of_path("pack.main.Tool") == code_of_callable(main.Tool())
        assert code_of_callable(len) == code_of_path("len") == code_of_path("no_such.thing") == {}
        assert set(code_of_path("pack.main.nothing.at_all")) == {
            "pack.main:make",
            "pack.main:BASE",
            "pack.main:Tool",
        }, "all of it"
    finally:
        for name in ("pack", "pack.main"):
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def targets() -> dict[str, tuple[str, str]]:
    """The modules and names of the functions of the demo's nodes, by name."""
    functions = [node.func for node in register_pipelines()["demo"].nodes]
    names = {(function.__module__, function.__qualname__.partition(".")[0]) for function in functions}
    return {name: (module, name) for module, name in names}


@pytest.fixture(scope="module", autouse=True)
def _equal_files_are_parsed_once():
    parse, parsed = Module.parse, {}

    def parse_once(name: str, file: Path) -> Module:
        key = name, file.name, file.read_bytes()
        if key not in parsed:
            parsed[key] = parse(name, file)
        return parsed[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Module, "parse", parse_once)
        yield


@pytest.fixture(scope="module")
def code() -> CodeIndex:
    """The code of the project."""
    return CodeIndex({"sage_dialog": SRC})


@pytest.fixture
def changed(tmp_path: Path, code: CodeIndex, targets):
    """The functions of the demo's nodes whose code is another after an edit of the project."""
    shutil.copytree(SRC, tmp_path / "sage_dialog", ignore=shutil.ignore_patterns("__pycache__"))

    def nodes(folder: str, old: str, new: str, files: str = "*.py") -> set[str]:
        (path,) = (path for path in (tmp_path / "sage_dialog" / folder).rglob(files) if old in path.read_text())
        path.write_text(path.read_text().replace(old, new))
        after = CodeIndex({"sage_dialog": tmp_path / "sage_dialog"})
        return {name for name, place in targets.items() if code.reachable(*place) != after.reachable(*place)}

    return nodes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "node"),
    [("page", "assemble_report"), ("failures", "report_failures"), ("versions", "report_versions")],
)
def test_a_template_affects_one_node_of_the_report_only(changed, template: str, node: str) -> None:
    assert changed("evaluation", "</", "<p></p></", f"{template}.html.j2") == {node}


def test_a_change_of_the_game_affects_self_play_only(changed) -> None:
    found = changed("selfplay", "def play(", "def play(*, unheard_of=1, ")
    assert {"search", "play_rollouts"} <= found
    unrelated = {"train_into", "refine_into", "train_sage_dpo", "make_dialogues", "annotate_dialogues", "judge_pairs"}
    assert not found & unrelated


def test_a_schema_and_a_parameter_model_affect_only_their_users(changed) -> None:
    assert changed("schemas", "WIN_RATES = ", "WIN_RATES = 0 or ") == {"count_wins"}
    found = changed("config", "class Preference(", "class Unheard: ...\n\n\nclass Preference(Unheard, ")
    assert found >= {"train_sage_dpo", "make_pairs"} and not found & {"search", "write_raw_data", "make_dialogues"}


def test_every_data_file_of_the_package_is_reached(code: CodeIndex) -> None:
    modules = [".".join(("sage_dialog", *path.relative_to(SRC).with_suffix("").parts)) for path in SRC.rglob("*.py")]
    found = {
        name
        for module in modules
        for name in code.reachable(module.removesuffix(".__init__"), "nothing")
        if "/" in name
    }
    assert found == {
        f"sage_dialog/{path.relative_to(SRC).as_posix()}" for path in SRC.rglob("*") if path.suffix in DATA_SUFFIXES
    }


def test_nodes_and_roles_reach_their_word_lists(code: CodeIndex, targets) -> None:
    def files(place: tuple[str, ...]) -> set[str]:
        return {Path(name).name for name in code.reachable(*place) if "/" in name}

    annotator, selector, judge = (files(tuple(role.split(":"))) for role in ROLES)
    assert annotator == {"annotator.toml", "feelings.toml", "topics.toml"}
    assert judge == {"function_words.txt", "judge_moves.toml", "judge_user_needs.toml"}
    assert {"selector_feelings.toml", "selector_styles.toml"} <= selector
    assert files(targets["assemble_report"]) == {"page.html.j2", "report.css", "report.js"}
    assert files(targets["report_replies"]) == {"replies.html.j2", "macros.html.j2"}
    assert files(targets["write_raw_data"]) == {"world.yml"}
    assert files(targets["find_failures"]) == {"announced_solutions.toml", "human_claims.toml"}
    assert files(targets["search"]) == set()
