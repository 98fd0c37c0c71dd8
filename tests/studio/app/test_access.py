"""The studio over HTTP: the token of the start, other sites and host names, headers, and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from studio_app import ADDRESS, SENT, TOKEN, Client, studio_of

from sage_dialog.studio.app.server import make_app

Start = Callable[..., Client]
PAGES = ("/chat", "/explorer", "/arena", "/static/studio.js", "/nothing")


@pytest.fixture
def stranger(tmp_path: Path) -> TestClient:
    """A browser without the token."""
    return TestClient(make_app(studio_of(tmp_path), TOKEN), base_url=ADDRESS, follow_redirects=False)


def test_nothing_is_read_without_the_token(stranger: TestClient) -> None:
    for path in (*PAGES, "/", "/?token=", "/?token=guessed", f"/?other={TOKEN}", "/arena/state"):
        response = stranger.get(path)
        assert response.status_code == 403 and "address that the terminal shows" in response.text
        assert "set-cookie" not in response.headers
    assert stranger.post(f"/chat/new?token={TOKEN}", data={"text": "Hm."}, headers=SENT).status_code == 403
    for cookie in ("sage-studio-4144=guessed", f"sage-studio-4145={TOKEN}", "\xff=;;", f"token={TOKEN}"):
        headers = {"cookie": cookie.encode("latin-1")}
        assert stranger.get("/chat", headers=headers).status_code == 403


def test_the_token_becomes_a_cookie_and_leaves_the_address(stranger: TestClient) -> None:
    response = stranger.get(f"/explorer/1?token={TOKEN.replace(' ', '+')}&motivation=humor")
    assert (response.status_code, response.headers["location"]) == (303, "/explorer/1?motivation=humor")
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "domain" not in cookie
    assert stranger.get("/chat").status_code == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_other_sites_change_nothing(studio: Start, tmp_path: Path, changed: dict[str, str]) -> None:
    client = studio()
    for path in ("/chat/new", "/arena/rater"):
        form = {"policy": "sage_7", "text": "Hm.", "rater": "anna"}
        refused = client._client.post(path, data=form, headers={**SENT, **changed})
        assert refused.status_code == 403
    assert client._client.post("/chat/new", data={"policy": "sage_7", "text": "Hm."}).status_code == 403
    assert not list(tmp_path.rglob("*.json*"))


def test_other_sites_read_nothing_but_may_link_here(studio: Start) -> None:
    client = studio()
    for changed in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:9"},
    ):
        assert client.get("/chat", **{"sec-fetch-mode": "cors", **changed}).status_code == 403
    assert client.get("/chat", **{"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4144", "127.0.0.1.evil.example", "", "0.0.0.0:4144"])
def test_other_host_names_are_refused(studio: Start, host: str) -> None:
    client = studio()
    cookie = "; ".join(f"{each.name}={each.value}" for each in client._client.cookies.jar)
    for path in (*PAGES, f"/?token={TOKEN}"):
        response = client._client.get(path, headers={"host": host, "cookie": cookie})
        assert response.status_code == 400 and "set-cookie" not in response.headers
    posted = client._client.post(
        "/chat/new", headers={**SENT, "host": host, "origin": f"http://{host}", "cookie": cookie}
    )
    assert posted.status_code == 400


def test_every_response_has_the_security_headers(studio: Start, stranger: TestClient) -> None:
    client = studio()
    talk = client.begin()
    responses = [client.get(path) for path in (*PAGES, talk, f"{talk}/stream/0", f"{talk}/conversation.html")]
    responses += [stranger.get("/chat"), client._client.get("/chat", headers={"host": "evil.example"})]
    for response in responses:
        headers = response.headers
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_pages_have_no_inline_script_and_no_other_host(studio: Start) -> None:
    client = studio()
    for path in ("/chat", client.begin(), "/arena"):
        page = client.get(path).text
        assert "<style" not in page and " style=" not in page and "http://" not in page and "https://" not in page
        assert all(part.startswith(' src="/static/') for part in page.split("<script")[1:])
        assert " onclick" not in page and "hx-on" not in page and "javascript:" not in page


def test_errors_are_pages_for_people_and_texts_for_parts(studio: Start) -> None:
    client = studio()
    page = client.get("/explorer/1", accept="text/html")
    assert page.status_code == 404 and "<h1>" in page.text and "There is no table trajectories_1 yet." in page.text
    part = client.get("/explorer/1", **{"hx-request": "true", "accept": "text/html"})
    assert (part.status_code, part.text) == (404, "There is no table trajectories_1 yet.")
    assert "&lt;b&gt;" in client.post("/chat/new", policy="<b>", text="Hm.").text
