"""The pipelines in kedro-viz: ordered layers, and a static site whose stages unfold."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the static site of `make viz`, built from a project without data."""
    project = tmp_path_factory.mktemp("project")
    for name in ("src", "conf"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
    (project / "conf/local").mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / name, project)
    command = [sys.executable, "-m", "kedro", "viz", "build", "--include-previews"]
    completed = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    handler = functools.partial(SilentHandler, directory=str(project / "build"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("pipeline", ["main", "pipelines/demo", "pipelines/self_play", "pipelines/evaluation"])
def test_layers_are_ordered(site: str, pipeline: str) -> None:
    """kedro-viz shows no layers if one is both before and after another."""
    with urlopen(f"{site}/api/{pipeline}") as response:
        layers = json.load(response)["layers"]
    iterations = ["sage_1", "play_1", "sage_2", "play_2", "sage_3"]
    assert layers, "layers form a circle"
    if pipeline != "pipelines/evaluation":
        assert [layer for layer in layers if layer in iterations] == iterations


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_the_site_shows_the_stages_and_unfolds_self_play(site: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1100})
        page.add_init_script(
            "localStorage.KedroViz ??= JSON.stringify({theme: 'light', isPrettyName: true, showFeatureHints: false, "
            "visible: {sidebar: false, miniMap: false, graph: true}})"
        )
        page.goto(f"{site}/?pid=__default__")
        nodes = page.locator(".pipeline-node")
        stage = nodes.filter(has_text="Self Play").first
        stage.wait_for()
        stages = ["Data Processing", "Sac Augmentation", "Sft", "Self Play", "Preference", "Evaluation"]
        all_drawn = "names => names.every(name => document.querySelector('#pipeline-graph').textContent.includes(name))"
        page.wait_for_timeout(1000)  # the graph zooms to fit and draws only visible nodes
        page.wait_for_function(all_drawn, arg=stages)
        heights = {node.text_content(): node.bounding_box()["y"] for node in nodes.all()}
        assert sorted(stages, key=heights.__getitem__) == stages  # from top to bottom, folded
        assert "Iteration 1" not in heights
        stage.click()
        nodes.filter(has_text="Iteration 1").first.wait_for()
        assert {"Iteration 1", "Iteration 2", "Sage 2"} <= set(nodes.all_text_contents())
        page.screenshot(path=tmp_path / "lineage.png")
        browser.close()
    assert (tmp_path / "lineage.png").stat().st_size > 20_000
