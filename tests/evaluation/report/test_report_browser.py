"""The report in a browser: its controls, and texts of models that are displayed as text only."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_page import RANDOM, render_report, with_values

from sage_dialog import schemas
from sage_dialog.core.tables import from_rows, to_rows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open the report with"),
]

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><b>bold</b> & \u2028 {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def report(contents: dict[str, Any], tmp_path: Path) -> Path:
    """A report with hostile text in a message, a vote, a candidate and a reason for an invalid one."""

    played = {"situation_id": "test/5", "turn": 1}
    html = render_report(
        contents,
        rollouts=with_values(contents["rollouts"], {**played, "policy": "sage_dpo"}, text=HOSTILE),
        judge_votes=with_values(
            contents["judge_votes"], {"situation_id": "test/5", "order": "ab"}, raw_response=HOSTILE
        ),
        candidates_1=with_values(
            with_values(contents["candidates_1"], {**played, "candidate": 2}, utterance=HOSTILE, a_emotion=HOSTILE),
            {**played, "candidate": 3},
            text=HOSTILE,
            invalid_reason=HOSTILE,
        ),
    )
    page = tmp_path / "report.html"
    page.write_text(html, encoding="utf-8")
    return page


class Opened:
    """A page with its console messages and requests."""

    def __init__(self, chromium: Any, report: Path, **context: Any) -> None:
        self.context = chromium.new_context(**context)
        self.scripts = context.get("java_script_enabled", True)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requested_urls: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: self.messages.append(dialog.message))
        self.page.on("request", lambda request: self.requested_urls.append(request.url))
        self.open(report)

    def open(self, report: Path, address: str = "") -> None:
        self.page.goto("about:blank")
        self.page.goto(report.as_uri() + address)
        if self.scripts:
            self.wait()

    def wait(self) -> None:
        """Wait until the dialogues and searches are unpacked."""
        self.page.wait_for_function(
            "() => ['dialogues', 'searches'].every(name => !document.getElementById(name + '-data')"
            " || document.getElementById(name).dataset.ready)"
        )

    def choose(self, name: str, situation: str) -> None:
        options = self.page.locator(f"#{name}-select option").all_text_contents()
        (place,) = (place for place, text in enumerate(options) if text.endswith(f"({situation})"))
        self.page.locator(f"#{name}-select").select_option(index=place)
        self.page.locator(f"#{name}-view code").first.filter(has_text=situation).wait_for()  # it may be unpacked first

    def close(self, report: Path) -> None:
        assert self.messages == [] and self.page.title() == "sage-dialog: evaluation report"
        requested = {url.split("#")[0] for url in self.requested_urls if not url.startswith(("data:", "about:"))}
        assert requested == {report.as_uri()}
        self.context.close()


def test_dialogues_of_a_situation_stand_side_by_side_with_their_votes(
    chromium: Any, report: Path, contents: dict[str, Any]
) -> None:
    opened = Opened(chromium, report)
    opened.choose("dialogues", "test/7")
    view = opened.page.locator("#dialogues-view")
    assert view.locator("code").all_text_contents() == ["test/7", "/explorer/rollouts/test%2F7"]  # in the studio
    assert view.locator(".side h4").all_text_contents() == ["sage_0", "sage_dpo"]  # the last pair of the parameters
    for column, policy in enumerate(("sage_0", "sage_dpo")):
        rollouts = contents["rollouts"].query(f"policy == '{policy}' and situation_id == 'test/7'").sort_values("turn")
        found = view.locator(".side > div").nth(column).locator(".message").all_text_contents()
        assert found == rollouts["text"].tolist()
    votes = {(vote["order"]): vote for vote in to_rows(contents["judge_votes"])
             if vote["situation_id"] == "test/7" and vote["policy_b"] == "sage_dpo"}  # fmt: skip
    names = {"a": "sage_0", "b": "sage_dpo", "tie": "tie"}
    answers = [names[votes[order]["vote"]] for order in ("ab", "ba")]
    rows = [row.locator("td").all_text_contents() for row in view.locator("tbody tr").all()]
    assert [row[0] for row in rows] == ["offline-test-judge", "world truth"]
    assert rows[0][1:4] == ["sage_0 – sage_dpo", *answers]
    assert rows[0][4] == ("tie" if answers[0] == "tie" else f"{answers[0]} wins")
    view.locator("summary").click()
    assert votes["ab"]["raw_response"] in view.locator("details").inner_text()

    opened.page.get_by_label("sage_1", exact=True).check()
    opened.page.get_by_label("sage_dpo", exact=True).uncheck()
    assert view.locator(".side h4").all_text_contents() == ["sage_0", "sage_1"]
    assert view.locator("tbody tr td:nth-child(2)").all_text_contents() == ["sage_0 – sage_1"] * 2
    before = view.locator("code").first.inner_text()
    opened.page.locator("#dialogues-on").click()
    assert view.locator("code").first.inner_text() != before == "test/7"
    assert view.locator(".side h4").all_text_contents() == ["sage_0", "sage_1"]  # the choice of policies stays
    opened.page.locator("#dialogues-back").click()
    assert view.locator("code").first.inner_text() == "test/7"
    assert opened.page.locator("#dialogues-static").is_hidden()
    opened.close(report)


@pytest.fixture(scope="module")
def judged_report(judged: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("judged") / "report.html"
    page.write_text(render_report(judged), encoding="utf-8")
    return page


def test_a_count_shows_as_many_dialogues(chromium: Any, judged_report: Path) -> None:
    opened = Opened(chromium, judged_report)
    links = opened.page.locator("a.count").evaluate_all("links => links.map(link => [link.hash, link.textContent])")
    shown = opened.page.evaluate(
        """async (links) => {
            const counts = [];
            for (const [hash] of links) {
                const followed = new Promise((done) => addEventListener("hashchange", done, { once: true }));
                location.hash = hash;
                await followed;
                counts.push(document.getElementById("dialogues-found").dataset.count);
            }
            return counts;
        }""",
        [link for place, link in enumerate(links) if place == 0 or link[0] != links[place - 1][0]],
    )
    counts = [count for place, (address, count) in enumerate(links) if place == 0 or address != links[place - 1][0]]
    assert len(counts) > 120 and shown == counts
    opened.close(judged_report)


def test_a_count_is_followed_by_a_click_and_back(chromium: Any, judged_report: Path) -> None:
    opened = Opened(chromium, judged_report)
    page = opened.page
    link = page.locator("#at-a-glance a.count").nth(2)
    count = link.inner_text()
    link.click()
    found = page.locator("#dialogues-found")
    assert found.inner_text() == f"{count} pairs of dialogues"
    assert found.is_visible() and page.locator("#dialogues h2").evaluate("h2 => h2.getBoundingClientRect().top") < 200
    assert page.locator("#dialogues-select option").count() == int(count)
    page.go_back()
    assert link.evaluate(
        "link => { const { top } = link.getBoundingClientRect(); return 0 < top && top < innerHeight; }"
    )
    opened.close(judged_report)


def test_the_address_keeps_filters_place_and_policies(chromium: Any, judged_report: Path) -> None:
    opened = Opened(chromium, judged_report)
    page = opened.page
    for name, label in (("judge", RANDOM), ("against", "world truth"), ("together", "other outcome")):
        page.locator(f"select[data-filter={name}]").select_option(label=label)
    page.locator("#dialogues-on").click()
    page.get_by_label("sage_2", exact=True).check()
    view = page.locator("#dialogues-view")

    def state() -> list[Any]:
        columns = view.locator(".side h4").all_text_contents()
        return [page.locator("#dialogues-found").inner_text(), view.locator("code").first.inner_text(), columns]

    before, address = state(), page.evaluate("location.hash")
    assert "sage_2" in before[2] and len(before[2]) == 3 and int(before[0].split()[0]) > 3
    opened.open(judged_report, address)
    assert state() == before and page.evaluate("location.hash") == address
    page.locator("#dialogues-clear").click()
    assert state()[0] == "12 situations"
    page.evaluate("location.hash = '#dialogues?judge=nobody&outcome=tie&at=99'")
    view.get_by_text("No dialogue is like this.").wait_for()
    page.evaluate("location.hash = '#dialogues?at=99&exchange=2&policy=sage_1'")  # beyond the last
    view.locator(".marked").wait_for()
    assert page.locator("#dialogues-found").inner_text() == "12 replies"
    assert view.locator(".turn").nth(3).get_attribute("class").split() == ["turn", "assistant", "marked"]
    opened.close(judged_report)


def test_marks_on_letters_do_not_paint_over_other_texts(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report, viewport={"width": 900, "height": 900})
    texts = opened.page.locator("#dialogues-view .side > div:first-child .message")

    def paint(text: str) -> bytes:
        texts.nth(1).evaluate("(element, text) => { element.textContent = text; }", text)
        return bytes(texts.nth(0).screenshot())

    plain = paint("s")
    assert paint("s" + "\u0301" * 60) == plain
    texts.nth(1).evaluate("element => { element.style.overflow = 'visible'; }")
    assert paint("s" + "\u0301" * 60) != plain  # there are marks to be cut
    opened.context.close()


def test_a_table_is_scrolled_by_keyboard(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report, viewport={"width": 390, "height": 800})
    table = opened.page.locator("#win-rates .scroll")
    table.focus()
    assert table.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    opened.page.keyboard.press("End")
    for _ in range(3):
        opened.page.keyboard.press("ArrowRight")
    opened.page.wait_for_timeout(300)
    assert table.evaluate("element => element.scrollLeft") > 0
    hidden = opened.page.evaluate(
        "[...document.querySelectorAll('th, td')].filter(cell => getComputedStyle(cell).display === 'none').length"
    )
    assert hidden == 0
    opened.close(report)


def test_a_search_shows_every_candidate_of_every_turn(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    opened.choose("searches", "test/3")
    view = opened.page.locator("#searches-view")
    assert view.locator("code").first.inner_text() == "test/3"
    assert view.locator("details").count() == 4 and view.locator("details[open]").count() == 1
    assert view.locator("summary").first.inner_text() == "4 candidates, number 1 chosen, 1 not valid"
    opened.page.locator("#searches-all").click()
    assert view.locator("details[open]").count() == 4
    first = view.locator(".tree").first
    assert [line.split("\n")[0] for line in first.locator("li").all_inner_texts()] == ["1", "2", "3", "4"]
    assert "chosen Candidate 0 says this." in first.locator("li.chosen").inner_text().replace("\n", " ")
    assert first.locator("li.chosen").count() == 1
    assert "action comfort · calm · garden" in first.locator("li").nth(1).inner_text().replace("\n", " ")
    broken = first.locator("li").nth(3).inner_text()
    assert "not valid (state block: expected another start):" in broken and "{u_motivation: broken" in broken
    opened.page.locator("#searches-all").click()
    assert view.locator("details[open]").count() == 0
    opened.close(report)


def test_hostile_text_is_displayed_as_text(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    images = opened.page.locator("img").count()
    opened.choose("dialogues", "test/5")
    opened.choose("searches", "test/5")
    opened.page.locator("#searches-all").click()
    dialogues, searches = opened.page.locator("#dialogues-view"), opened.page.locator("#searches-view")
    assert HOSTILE in dialogues.locator(".side .message").all_text_contents()
    assert any(HOSTILE in reply for reply in dialogues.locator("details li").all_text_contents())
    first = searches.locator(".tree").first.locator("li").all_text_contents()
    assert first[2].startswith(f"3{HOSTILE}") and f"comfort · {HOSTILE} · garden" in first[2]
    assert first[3] == f"4not valid ({HOSTILE}): {HOSTILE}"
    assert opened.page.locator("img").count() == images and dialogues.locator(".side b", has_text="bold").count() == 0
    opened.close(report)


def test_no_other_script_and_no_other_style_is_run(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    opened.page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "document.title = 'taken'";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=\\"document.title = 'taken'\\">");
        document.body.insertAdjacentHTML("beforeend", "<style>h1 { position: fixed }</style>");
    }""")
    opened.page.wait_for_timeout(50)
    assert opened.page.title() == "sage-dialog: evaluation report"
    assert opened.page.locator("h1").evaluate("h1 => getComputedStyle(h1).position") == "static"
    assert len(opened.messages) >= 3 and all("Content Security Policy" in message for message in opened.messages)
    opened.context.close()


def test_without_scripts_examples_are_visible(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report, java_script_enabled=False)
    assert opened.page.locator(".controls").first.is_hidden()
    static = opened.page.locator("#dialogues-static")
    assert static.is_visible() and static.locator("details").count() == 2 * 4  # situations, policies
    candidates = opened.page.locator("#searches-static li")
    assert candidates.count() == 4 * 4 and candidates.first.is_hidden()
    opened.page.emulate_media(media="print")
    assert candidates.first.is_visible()
    opened.context.close()


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_no_wider_than_the_screen(chromium: Any, report: Path, width: int) -> None:
    opened = Opened(chromium, report, viewport={"width": width, "height": 800}, color_scheme="dark")
    opened.page.locator("#searches-all").click()
    for policy in policy_labels(opened):
        opened.page.get_by_label(policy, exact=True).check()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    opened.close(report)


def policy_labels(opened: Opened) -> list[str]:
    return [label.strip() for label in opened.page.locator("#dialogues-policies label").all_text_contents()]


def test_in_print_everything_is_unfolded(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report, color_scheme="dark")
    page = opened.page
    folded = page.locator("details:not([open])").count()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0 < folded
    assert all(controls.is_hidden() for controls in page.locator(".controls").all())
    assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded
    opened.close(report)


def test_a_run_without_dialogues_opens_without_complaints(
    chromium: Any, contents: dict[str, Any], tmp_path: Path
) -> None:
    page = tmp_path / "empty.html"
    nothing = {
        "rollouts": from_rows([], schemas.ROLLOUTS),
        "trajectories_1": from_rows([], schemas.TRAJECTORIES),
        "candidates_1": from_rows([], schemas.CANDIDATES),
    }
    page.write_text(render_report(contents, **nothing), encoding="utf-8")
    opened = Opened(chromium, page)
    assert opened.page.get_by_text("There is no dialogue.").is_visible()
    assert opened.page.get_by_text("The last search kept no dialogue.").is_visible()
    opened.close(page)
