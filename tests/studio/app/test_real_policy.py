"""A policy with weights in the studio, in Chromium: the page's own slider and field change its plans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from block_writers import EMOTIONS, shared_block_writer
from studio_app import Served, studio_of
from studio_page import Page, expect

from sage_dialog.inference.transformers.engine import TransformersEngine


@pytest.fixture
def opened(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    policy = shared_block_writer("words", tmp_path_factory)
    engine = TransformersEngine(policy, [], 0, 1)
    studio = studio_of(tmp_path_factory.mktemp("studio"), engine, names=["sage_1"])
    served = Served(replace(studio, candidates=24))
    page = Page(chromium, served)
    yield page
    page.close()
    served.close()


def draw_motivations(opened: Page) -> list[str]:
    """Return the motivations of new candidates for the last reply."""
    opened.page.get_by_role("button", name="Show 24 candidates").click()
    expect(opened.page.locator(".candidates h2")).to_be_focused()
    motivations = opened.page.locator(".candidates [data-field=a_motivation]").all_text_contents()
    assert len(motivations) == 24
    return motivations


@pytest.mark.slow
def test_the_slider_and_a_fixed_value_change_the_plans(opened: Page) -> None:
    page = opened.page
    opened.begin("x")
    emotion = page.locator("#talk .log .assistant:not(.pending) [data-field=a_emotion]")
    expect(emotion).to_have_count(1)
    page.locator("summary", has_text="Sampling and system prompt").click()
    page.fill("[name=temperature]", "1")
    page.fill("[name=max_new_tokens]", "90")
    page.fill("[name=system_prompt]", "")

    page.get_by_role("button", name="Boost a keyword of a_motivation").click()
    page.get_by_label("keyword of a_motivation", exact=True).fill("humor")
    slider = page.get_by_label("boost of this keyword of a_motivation")
    rates = []
    for weight in ("0", "4"):
        slider.fill(weight)
        rates.append(draw_motivations(opened).count("humor") / 24)
    assert rates[0] < 0.5 and rates[1] > 0.8, rates

    drawn = emotion.text_content()
    fixed = next(each for each in EMOTIONS if each != drawn)
    page.fill("[name=fix-a_emotion]", fixed)
    page.fill("[name=fix-a_topic]", "dogs, music")
    page.fill("#text", "x")
    page.press("#text", "Enter")
    expect(emotion).to_have_text([drawn, fixed])
    expect(page.locator("#talk .log .assistant [data-field=a_topic]").last).to_have_text("dogs, music")
