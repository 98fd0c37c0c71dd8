"""The studio in Chromium: replies that stream, branches, steering, hostile texts, filters, votes, accessibility."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import pytest
from scripted_engine import ScriptedEngine
from studio_app import Served, reply_with_blocks, studio_of
from studio_page import Page, expect
from studio_tables import search_tables
from voting import rollouts_of

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.engine import Prompt
from sage_dialog.studio.app.votes import Rater
from sage_dialog.studio.arena.ballots import plan_ballots
from sage_dialog.studio.arena.session import Session
from sage_dialog.studio.arena.vote_file import VoteFile

pytestmark = pytest.mark.slow

HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> **bold** [a](javascript:0)"
    " \x1b[31mred \u202etfel\u202c \u05e9\u05dc\u05d5\u05dd {{ 7 * 7 }} &amp;"
)
SHOWN = HOSTILE.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e").replace("\u202c", r"\u202c")


class GatedEngine(ScriptedEngine):
    """Streams a reply word by word, as many words as the test lets go, or all."""

    def __init__(self, reply: Callable[[str, Prompt, int], str]) -> None:
        super().__init__(reply)
        self._changed = threading.Condition()
        self._left: int | None = None

    def let_go(self, words: int | None) -> None:
        """Let so many more words go, and hold the rest; None lets all go."""
        with self._changed:
            self._left = None if words is None else words + (self._left or 0)
            self._changed.notify_all()

    def sample(
        self,
        policy: str,
        prompts: Any,
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Any:
        drawn = super().sample(policy, prompts, sampling, samples, steering, None)
        for piece in re.findall(r"\S+\s*|\s+", drawn[0][0].text) if on_text and drawn else ():
            with self._changed:
                assert self._changed.wait_for(lambda: self._left != 0, timeout=60)
                self._left = None if self._left is None else self._left - 1
            on_text(piece)
        return drawn


def reply(policy: str, prompt: Prompt, sample: int) -> str:
    """Answer with the last message, by a motivation that follows the steering of the request."""
    words = prompt.messages[-1]["content"]
    return reply_with_blocks(f"{policy} {prompt.item[2]} {sample}: {words}")


@pytest.fixture(scope="module")
def engine() -> GatedEngine:
    return GatedEngine(reply)


@pytest.fixture(scope="module")
def served(engine: GatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("studio")
    rollouts = rollouts_of(4, "sage_0", "sage_1")
    ballots = plan_ballots(rollouts, [("sage_0", "sage_1")], None, "anna", 7)
    rater = Rater(lambda name: VoteFile(folder / "votes", name), lambda file: Session(ballots, file), "anna")
    frames = {**search_tables(words=HOSTILE), "rollouts": rollouts}
    served = Served(studio_of(folder, engine, frames=frames, rater=rater, examples=[HOSTILE, "My dog died."]))
    yield served
    served.close()


@pytest.fixture
def opened(chromium: Any, served: Served, engine: GatedEngine) -> Iterator[Page]:
    page = Page(chromium, served)
    yield page
    engine.let_go(None)
    page.close()


def test_a_reply_streams_and_survives_a_reload(opened: Page, engine: GatedEngine) -> None:
    """Fields fill in as they come; a page that comes back in the middle gets the reply from its beginning."""
    engine.let_go(0)
    opened.begin("one two three four")
    page = opened.page
    plan, words = page.locator(".pending [data-field]"), page.locator(".pending [data-words]")
    engine.let_go(4)  # {u_motivation: sharing, u_emotion: sad,
    expect(plan.nth(1)).to_have_text("sad")
    assert plan.nth(3).text_content() == "" and words.text_content() == ""
    engine.let_go(12)
    expect(words).to_contain_text("sage_7")
    before = words.text_content()
    page.reload()
    expect(words).to_have_text(before)
    refused = page.locator("#error")
    page.fill("#text", "too early")
    page.press("#text", "Enter")
    expect(refused).to_contain_text("A reply is being drawn")
    expect(page.locator("#text")).to_have_value("too early")
    opened.faults.clear()  # the browser reports the refused request
    engine.let_go(None)
    expect(page.locator("#talk .assistant .message")).to_have_text("sage_7 0 0: one two three four")
    expect(page.locator("#status")).to_have_text("Reply: sage_7 0 0: one two three four")
    expect(page.locator(".pending")).to_have_count(0)


def test_an_example_fills_the_first_message(opened: Page) -> None:
    for place, text in enumerate((HOSTILE, "My dog died.")):
        opened.page.locator("[data-example]").nth(place).click()
        expect(opened.page.locator("#text")).to_have_value(text)
        expect(opened.page.locator("#text")).to_be_focused()


def test_a_reply_goes_on_after_lost_connections(opened: Page, served: Served, engine: GatedEngine) -> None:
    """A page that connects again in the middle goes on, and one that missed the end gets it; no part is there twice."""
    engine.let_go(0)
    opened.begin("one two three four")
    page = opened.page
    words = page.locator(".pending [data-words]")
    engine.let_go(16)  # the blocks, and of the words: sage_7 0 0:
    expect(words).to_have_text("sage_7 0 0:")
    with page.expect_request("**/stream/0"):
        served.cut_connections()
    expect(words).to_have_text("sage_7 0 0:")
    engine.let_go(2)
    expect(words).to_have_text("sage_7 0 0: one two")
    assert page.locator(".pending [data-field]").all_text_contents()[:2] == ["sharing", "sad"]
    with page.expect_request("**/stream/0"):
        served.cut_connections()
        engine.let_go(None)
    expect(page.locator(".pending")).to_have_count(0)
    assert opened.messages() == ["one two three four", "sage_7 0 0: one two three four"]
    expect(page.locator("#status")).to_have_text("Reply: sage_7 0 0: one two three four")
    assert opened.faults and all("ERR_" in fault for fault in opened.faults)  # the browser reports lost connections
    opened.faults.clear()


def test_a_page_of_an_earlier_start_says_that_its_reply_is_lost(
    opened: Page, served: Served, engine: GatedEngine
) -> None:
    engine.let_go(0)
    opened.begin("one two")
    expect(opened.page.locator(".pending [data-words]")).to_have_count(1)
    opened.page.route("**/stream/0", lambda route: route.fulfill(status=403))  # as with the token of another start
    served.cut_connections()
    expect(opened.page.locator("#error")).to_contain_text("open the address that it shows")
    opened.faults.clear()


def test_a_stopped_reply_keeps_what_it_said(opened: Page, engine: GatedEngine) -> None:
    engine.let_go(0)
    opened.begin("one two three four")
    engine.let_go(16)
    words = opened.page.locator(".pending [data-words]")
    expect(words).to_contain_text("0:")
    said = words.text_content()
    with opened.page.expect_response("**/stop"):
        opened.page.keyboard.press("Escape")
    engine.let_go(None)
    expect(opened.page.locator(".pending")).to_have_count(0)
    reply = opened.page.locator("#talk .assistant .message").text_content()
    assert reply.startswith(said) and not reply.endswith("four")
    expect(opened.page.locator("#talk .fault")).to_contain_text("stopped")


def test_branches_candidates_and_steering_by_keyboard(opened: Page, engine: GatedEngine) -> None:
    opened.begin("Hello.")
    page = opened.page
    answer = page.locator("#talk .assistant .message").last
    expect(answer).to_have_text("sage_7 0 0: Hello.")
    again = page.get_by_role("button", name="Again")
    again.focus()
    page.keyboard.press("Enter")
    expect(answer).to_have_text("sage_7 1 0: Hello.")
    expect(again).to_be_focused()  # the new turn's
    before = page.get_by_role("button", name="the branch before")
    before.focus()
    page.keyboard.press("Space")
    expect(answer).to_have_text("sage_7 0 0: Hello.")
    expect(before).to_be_focused()
    page.get_by_role("button", name="Show 4 candidates").press("Enter")
    expect(page.locator(".candidates h2")).to_be_focused()
    page.get_by_role("button", name="Go on with candidate 3").press("Enter")
    expect(answer).to_have_text("sage_7 2 2: Hello.")
    expect(page.locator("#text")).to_be_focused()  # what had the focus is gone
    page.locator(".edit summary").press("Enter")
    page.locator(".edit textarea").fill("Goodbye.")
    page.locator(".edit button").press("Enter")
    expect(answer).to_have_text("sage_7 0 0: Goodbye.")
    assert len(opened.messages()) == 2

    page.get_by_role("button", name="Boost a keyword of a_motivation").press("Enter")
    page.get_by_label("keyword of a_motivation", exact=True).fill("humor")
    slider = page.get_by_label("boost of this keyword of a_motivation")
    slider.press("ArrowRight")
    expect(page.locator(".boost output")).to_have_text("+4.5")
    expect(page.locator("#settings-note")).to_contain_text("boost a_motivation humor +4.5")
    page.fill("[name=fix-a_emotion]", "playful")
    page.fill("#text", "More.")
    page.press("#text", "Enter")  # at once: the request brings the settings along
    expect(answer).to_have_text("sage_7 0 0: More.")
    steering = engine.requests[-1][2]
    assert steering == Steering(boosts={"a_motivation": {"humor": 4.5}}, fixed={"a_emotion": "playful"})
    expect(page.locator("#text")).to_have_value("")
    page.get_by_role("button", name="remove this boost").press("Enter")
    expect(page.locator("#settings-note")).not_to_contain_text("humor")


def test_hostile_texts_are_text(opened: Page) -> None:
    page = opened.page
    opened.begin(HOSTILE)
    expect(page.locator("#talk .assistant .message")).to_have_text(f"sage_7 0 0: {SHOWN}")
    assert opened.messages()[0] == SHOWN
    assert page.locator("#talk script, #talk img, #talk a, #talk strong").count() == 0
    long = "x" * 99_990 + " " + "<b>end"
    page.fill("#text", long)
    page.press("#text", "Enter")
    expect(page.locator("#talk .user .message").last).to_contain_text("<b>end")
    expect(page.locator("#talk .assistant .message").last).to_contain_text("<b>end")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{opened.served.address}/explorer/2/situation?id=s/003")
    assert page.locator(".tree li").count() == 6 and page.locator("main script, main img").count() == 0
    expect(page.locator(".tree .words").first).to_have_text(f"words 3 1 0 {SHOWN}")


def test_explorer_filters_change_the_list_and_the_address(opened: Page) -> None:
    page = opened.page
    page.get_by_role("link", name="Explorer").click()
    expect(page.locator("p.found")).to_have_text("30 situations")
    page.get_by_label("emotion of the situation").select_option("sad")
    expect(page.locator("p.found")).to_have_text("15 situations")
    page.get_by_label("id or text").fill("opening 3")
    expect(page.locator("p.found")).to_have_text("1 situation")
    assert "label=sad&text=opening+3" in page.url
    page.get_by_role("link", name=re.compile("opening 3")).hover()
    page.mouse.down()  # a slow click, which takes the focus from the changed text
    page.wait_for_timeout(500)
    page.mouse.up()
    expect(page.locator("h1 code")).to_have_text("s/003")
    assert page.locator(".tree .chosen").count() == 2
    page.go_back()
    expect(page.locator("p.found")).to_have_text("1 situation")
    page.get_by_label("the chosen one").check()
    page.wait_for_url("**chosen=on**")


def test_two_policies_blind_and_a_vote(opened: Page, served: Served) -> None:
    page = opened.page
    page.goto(f"{served.address}/chat")
    page.check("[name=blind]")
    page.select_option("[name=beside]", "plain")
    page.fill("#text", "Hello.")
    page.get_by_role("button", name="Begin").click()
    better = page.get_by_role("button", name="A is better")
    expect(better).to_be_visible()
    assert page.locator(".side h2").all_text_contents() == ["A", "B"] and page.locator("[data-field]").count() == 0
    better.click()
    expect(page.locator("#talk .note")).to_contain_text("anna voted")
    assert set(page.locator(".side h2").all_text_contents()) == {"sage_7", "plain"}
    assert served.studio.rater.file is not None and len(served.studio.rater.file.votes) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1600])
def test_pages_fit_and_are_accessible(chromium: Any, served: Served, scheme: str, width: int) -> None:
    """No page is wider than the window, and axe-core's rules pass, with all that folds unfolded."""
    opened = Page(chromium, served, color_scheme=scheme, viewport={"width": width, "height": 800})
    page = opened.page
    opened.begin("Hello.")
    page.get_by_role("button", name="Show 4 candidates").click()
    expect(page.locator(".candidates h2")).to_be_visible()
    addresses = [urlsplit(page.url).path, "/chat", "/explorer/2", "/explorer/2/situation?id=s/003"]
    for address in [*addresses, "/explorer/rollouts/situation?id=test/0", "/arena"]:
        page.goto(served.address + address)
        if address == "/arena":
            expect(page.locator("#first .message").first).to_be_visible()
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
        assert violations(page) == [], address
    opened.close()


def violations(page: Any) -> list[str]:
    """Return violations of axe-core's rules."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    page.evaluate((resources.files(package) / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]
