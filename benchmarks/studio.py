"""Measure the studio in Chromium: what it adds to the engine's first token, a large tree, and the weight of its page.

    python benchmarks/studio.py [--quick] [--repeats N]
    python benchmarks/studio.py --data data    # with the demo's sage_dpo, after `make demo`

    first_token_overhead_ms   from the engine's first piece to its display in the page; median
    tree_ms                   from the opening of a situation with 1,000 candidates to its layout; median
    page_kb                   bytes of everything that the chat's page loads, as transferred

Without --data the engine is a script, so that no model counts. The goals are at most 300 ms,
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

from finished_runs import latest_policy  # noqa: E402

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
    parser.add_argument("--data", type=Path, help="data folder of a finished demo, whose sage_dpo replies")
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
        measured = measure(browser, Path(folder), repeats, options.data)
        browser.close()
    for name, values in measured.items():
        print(f"{name:<25} median {statistics.median(values):.0f}, {min(values):.0f} to {max(values):.0f}, "
              f"goal at most {GOALS[name]}")  # fmt: skip
    medians = {name: round(statistics.median(values), 1) for name, values in measured.items()}
    print(json.dumps({**medians, "goals": GOALS, "repeats": repeats}))


class TimedEngine:
    """An engine that notes when it gives its first piece of a text.

    Args:
        pause: seconds after each piece, for an engine that has no model.
    """

    def __init__(self, engine: Any, pause: float = 0.0) -> None:
        self._engine, self._pause, self.first = engine, pause, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def sample(self, *given: Any, **named: Any) -> Any:
        if len(given) < 6 or given[5] is None:
            return self._engine.sample(*given, **named)
        *given_to_engine, on_text = given
        self.first = 0.0

        def note(text: str) -> None:
            self.first = self.first or time.time()
            for piece in re.findall(r"\S+\s*|\s+", text):
                on_text(piece)
                time.sleep(self._pause)

        return self._engine.sample(*given_to_engine, note)


def demo_policy(data: Path) -> tuple[Any, str]:
    """Return an engine with the latest sage_dpo of a demo, and its name."""
    from sage_dialog.config import SamplingConfig
    from sage_dialog.inference.engine import Prompt
    from sage_dialog.inference.transformers.engine import TransformersEngine

    base, policy = (latest_policy(data, name) for name in ("sage_0", "sage_dpo"))
    if not base or not policy:
        raise SystemExit(f"{data} holds no sage_0 and sage_dpo; run `make demo`, or name a --data that does")
    engine = TransformersEngine(base, [policy], seed=0)
    prompt = Prompt(({"role": "user", "content": "Hello"},), ("warm-up",))
    engine.sample(policy.name, [prompt], SamplingConfig.from_base(max_new_tokens=8))  # loads the weights
    return engine, policy.name


def measure(browser: Any, folder: Path, repeats: int, data: Path | None = None) -> dict[str, list[float]]:
    """Return the measurements by name."""
    from scripted_engine import ScriptedEngine
    from studio_app import Served, reply_with_blocks, studio_of
    from studio_tables import search_tables

    if data is None:
        scripted = ScriptedEngine(lambda *_: reply_with_blocks("That must be tough. " * 4))
        engine, names = TimedEngine(scripted, pause=0.02), ["sage_7"]
    else:
        inner, name = demo_policy(data)
        engine, names = TimedEngine(inner), [name]
    frames = search_tables(situations=3, turns=TURNS, number=CANDIDATES // TURNS, words="and so on, " * 12)
    served = Served(studio_of(folder, engine, names, frames))
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
