"""Measure the studio in Chromium: what it adds to the engine's first token, a large tree, and the weight of its page.

    python benchmarks/studio.py [--quick] [--repeats N]

    first_token_overhead_ms   from the engine's first piece to its display in the page; median
    tree_ms                   from the opening of a situation with 1,000 candidates to its layout; median
    page_kb                   bytes of everything that the chat's page loads, as transferred

The engine is a script that notes the time of its first piece, so that no model counts. The goals are at most 300 ms,
1,000 ms and 300 kB. Needs playwright and a Chromium. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
for folder in ("src", "tests/inference", "tests/studio/app", "tests/studio/arena"):
    sys.path.insert(0, str(PROJECT / folder))

CANDIDATES, TURNS = 1000, 5
GOALS = {"first_token_overhead_ms": 300, "tree_ms": 1000, "page_kb": 300}
NOTE_FIRST = """() => {
  window.firstShown = null;
  new MutationObserver(() => {
    const fields = [...document.querySelectorAll(".pending [data-field]")];
    if (window.firstShown === null && fields.some((field) => field.textContent))
      requestAnimationFrame(() => { window.firstShown ??= Date.now(); });
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""

NOTE_LAYOUT = """addEventListener("load", () => requestAnimationFrame(() => {
  document.body.offsetHeight;
  window.laidOut = performance.now();  // since the navigation began
}));"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five repetitions")
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    repeats = 5 if options.quick else options.repeats
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        parser.error("the studio cannot be measured: playwright or chromium is not there; `pip install '.[dev]'`")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        measured = measure(browser, Path(folder), repeats)
        browser.close()
    for name, values in measured.items():
        print(f"{name:<25} median {statistics.median(values):.0f}, {min(values):.0f} to {max(values):.0f}, "
              f"goal at most {GOALS[name]}")  # fmt: skip
    medians = {name: round(statistics.median(values), 1) for name, values in measured.items()}
    print(json.dumps({**medians, "goals": GOALS, "repeats": repeats}))


def measure(browser: Any, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Return the measurements by name."""
    from scripted_engine import ScriptedEngine
    from studio_app import Served, reply_with_blocks, studio_of
    from studio_tables import search_tables

    class TimedEngine(ScriptedEngine):
        first = 0.0

        def sample(self, *given: Any) -> Any:
            drawn = super().sample(*given[:5])
            if len(given) > 5 and given[5] is not None:
                self.first = time.time()
                for piece in re.findall(r"\S+\s*", drawn[0][0].text):
                    given[5](piece)
                    time.sleep(0.02)  # of a small policy on a CPU
            return drawn

    engine = TimedEngine(lambda *_: reply_with_blocks("That must be tough. " * 4))
    frames = search_tables(situations=3, turns=TURNS, number=CANDIDATES // TURNS, words="and so on, " * 12)
    served = Served(studio_of(folder, engine, frames=frames))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    session = page.context.new_cdp_session(page)
    received: list[float] = []
    session.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    try:
        page.goto(served.start_address())
        page.fill("#text", "We lost the match.")
        page.press("#text", "Enter")
        page.wait_for_url("**/chat/*")
        page.locator("text=Show 4 candidates").wait_for()
        tokens = [first_token(page, engine) for _ in range(repeats)]
        session.send("Network.enable")
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        page.reload(wait_until="networkidle")
        weight = sum(received) / 1000
        page.add_init_script(NOTE_LAYOUT)
        trees = [tree(page, served.address) for _ in range(repeats)]
    finally:
        page.context.close()
        served.close()
    return {"first_token_overhead_ms": tokens, "tree_ms": trees, "page_kb": [weight]}


def first_token(page: Any, engine: Any) -> float:
    """Return the milliseconds from the engine's first piece to the first field in the page."""
    page.evaluate(NOTE_FIRST)
    page.fill("#text", "And now?")
    page.press("#text", "Enter")
    page.wait_for_function("() => window.firstShown !== null")
    shown = page.evaluate("window.firstShown") / 1000
    page.locator(".pending").wait_for(state="detached")
    page.locator("text=Show 4 candidates").wait_for()
    return 1000 * (shown - engine.first)


def tree(page: Any, address: str) -> float:
    """Return the milliseconds from the opening of a situation to the layout of its tree."""
    page.goto(f"{address}/explorer/2/situation?id=s/000")
    page.wait_for_function("() => window.laidOut")
    number = page.locator(".tree li").count()
    assert number == CANDIDATES, number
    return float(page.evaluate("window.laidOut"))


if __name__ == "__main__":
    main()
