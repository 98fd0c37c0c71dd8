"""The explorer's pages: searches and rollouts, as they are or as files that open without a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.studio.app.explorer.bundle import zip_pages
from sage_dialog.studio.app.pages import page, render, style
from sage_dialog.studio.explorer.rollouts import RolloutFilter, with_rule
from sage_dialog.studio.explorer.searches import Search, SearchFilter
from sage_dialog.studio.explorer.situations import page_of
from sage_dialog.studio.explorer.tables import TableCache, Tables

MOST_EXPORTED = 200
"""Situations in a bundle."""
MAX_FILTER = 200  # characters

Filter = TypeVar("Filter", SearchFilter, RolloutFilter)


@dataclass(frozen=True)
class _View:
    """Situations of a search or of rollouts, behind one set of addresses.

    Attributes:
        base: the address.
        template: of a situation.
        find: returns the situations that fit the filters.
        situation: returns the values of the template.
    """

    base: str
    title: str
    template: str
    wanted: SearchFilter | RolloutFilter
    choices: Mapping[str, list[str]]
    find: Callable[[], DataFrame]
    situation: Callable[[str], dict[str, Any]]

    @property
    def query(self) -> dict[str, Any]:
        """The filters that are set, as in an address."""
        return {name: value for name, value in asdict(self.wanted).items() if value}

    def address(self, part: str = "", **more: object) -> str:
        """Return an address with the filters."""
        query = urlencode({name: "on" if value is True else value for name, value in {**self.query, **more}.items()})
        return f"{self.base}{part}{'?' if query else ''}{query}"


class ExplorerPages:
    """Pages of searches and rollouts. They are built in threads, since tables can be large."""

    def __init__(self, tables: Tables, rule: OutcomeRule) -> None:
        self._cache = TableCache(tables)
        self._rule = rule

    def routes(self) -> list[Route]:
        """Return the routes of the explorer."""
        routes = [Route("/explorer", self._first)]
        for base in ("/explorer/rollouts", "/explorer/{k:int}"):
            routes += [
                Route(base, self._situations),
                Route(f"{base}/bundle.zip", self._bundle),
                Route(f"{base}/page.html", self._file),
                Route(f"{base}/situation", self._situation),
                Route(f"{base}/{{situation:path}}", self._short),
            ]
        return routes

    def _first(self, request: Request) -> Response:
        """Open the last search, or else the rollouts."""
        iterations = self._iterations()
        return RedirectResponse(f"/explorer/{iterations[-1]}" if iterations else "/explorer/rollouts", 303)

    def _short(self, request: Request) -> Response:
        """Open a situation by an address such as /explorer/1/hit:0_conv:1."""
        base, situation = request.url.path.rsplit("/", 1)[0], request.path_params["situation"]
        base = "/explorer/rollouts" if "k" not in request.path_params else f"/explorer/{request.path_params['k']}"
        return RedirectResponse(f"{base}/situation?id={quote(situation, safe='')}", 303)

    def _situations(self, request: Request) -> Response:
        view = self._view(request)
        listed = page_of(view.find(), _page_number(request))
        values: dict[str, Any] = {"view": view, "listed": listed, "choices": view.choices, "wanted": view.wanted}
        part = request.headers.get("hx-request") == "true" and request.headers.get("hx-target") == "found"
        response = page("found.html.j2" if part else "explorer.html.j2", **self._common(request), **values)
        if part:
            response.headers["hx-push-url"] = view.address()  # without empty filters
        return response

    def _situation(self, request: Request) -> Response:
        view, situation = self._view(request), request.query_params.get("id", "")
        ids = view.find()["id"].tolist()
        place = ids.index(situation) if situation in ids else None
        around = {
            "previous": ids[place - 1] if place else None,
            "following": ids[place + 1] if place is not None and place + 1 < len(ids) else None,
        }
        values = {"view": view, "inner": view.template, **view.situation(situation), **around}
        return page("situation.html.j2", **self._common(request), **values)

    def _file(self, request: Request) -> Response:
        """Return a situation as one HTML file."""
        view, situation = self._view(request), request.query_params.get("id", "")
        html = _saved(view, situation)
        return _download(html.encode("utf-8", "replace"), "situation.html", "text/html")

    def _bundle(self, request: Request) -> Response:
        """Return the situations that the filters find as HTML files in a zip archive."""
        view = self._view(request)
        found = view.find()
        rows = to_rows(found.iloc[:MOST_EXPORTED])
        names = [f"situations/{number:04}.html" for number in range(1, len(rows) + 1)]
        index = render(
            "bundle_index.html.j2",
            view=view,
            rows=list(zip(names, rows, strict=True)),
            total=len(found),
            style=style(),
        )
        pages = {"index.html": index}
        pages |= {name: _saved(view, row["id"], "../index.html") for name, row in zip(names, rows, strict=True)}
        return _download(zip_pages(pages), "sage-explorer.zip", "application/zip")

    def _view(self, request: Request) -> _View:
        if "k" in request.path_params:
            k = request.path_params["k"]
            tables = (f"trajectories_{k}", f"candidates_{k}")
            search = self._cache.get(f"search {k}", Search, *tables, optional=("situations",))
            wanted = _filter(request, SearchFilter)
            return _View(
                f"/explorer/{k}",
                f"Search {k}",
                "tree.html.j2",
                wanted,
                search.choices,
                lambda: search.find(wanted),
                lambda situation: {"tree": search.tree(situation, wanted)},
            )
        optional = ("judge_votes", "situations")
        rollouts = self._cache.get("rollouts", with_rule(self._rule), "rollouts", optional=optional)
        wanted_of_rollouts = _filter(request, RolloutFilter)
        return _View(
            "/explorer/rollouts",
            "Rollouts",
            "side_by_side.html.j2",
            wanted_of_rollouts,
            rollouts.choices,
            lambda: rollouts.find(wanted_of_rollouts),
            lambda situation: {"row": rollouts.situation(situation), "wanted": wanted_of_rollouts},
        )

    def _common(self, request: Request) -> dict[str, Any]:
        return {"tab": "explorer", "iterations": self._iterations(), "k": request.path_params.get("k")}

    def _iterations(self) -> list[int]:
        return list(self._cache.tables.iterations())


def _saved(view: _View, situation: str, index: str = "") -> str:
    values = {"view": view, "inner": view.template, **view.situation(situation)}
    return render("saved_situation.html.j2", **values, situation=situation, index=index, style=style())


def _filter(request: Request, kind: type[Filter]) -> Filter:
    given = {name: value[:MAX_FILTER] for name, value in request.query_params.items()}
    values = {
        each.name: given[each.name] == "on" if each.type == "bool" else given[each.name]
        for each in fields(kind)
        if each.name in given
    }
    return kind(**values)  # type: ignore[arg-type]


def _page_number(request: Request) -> int:
    text = request.query_params.get("page", "1")
    if not (text.isascii() and text.isdecimal() and len(text) < 9):
        raise HTTPException(422, f"{text[:20]!r} is no page.")
    return int(text)


def _download(content: bytes, name: str, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers={"content-disposition": f'attachment; filename="{name}"'})
