"""A page of the studio in Chromium."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from studio_app import Served


class Page:
    """A page of the studio with everything that it must not do."""

    def __init__(self, chromium: Any, served: Served, **context: Any) -> None:
        self.context = chromium.new_context(**context)
        self.page = self.context.new_page()
        self.served = served
        self.faults: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(served.start_address())

    def begin(self, text: str, **choices: str) -> None:
        self.page.goto(f"{self.served.address}/chat")
        for name, value in choices.items():
            self.page.select_option(f"[name={name}]", value)
        self.page.fill("#text", text)
        self.page.press("#text", "Enter")
        self.page.wait_for_url(re.compile(r"/chat/[0-9a-f]{12}$"))

    def messages(self) -> list[str]:
        return self.page.locator("#talk .log .message").all_text_contents()

    def close(self) -> None:
        assert self.faults == [] and "owned" not in self.page.title()
        assert {urlsplit(url).netloc for url in self.requested} == {f"127.0.0.1:{self.served.port}"}
        self.context.close()


def expect(locator: Any) -> Any:
    """Return playwright's assertions on a locator, which wait."""
    from playwright import sync_api

    return sync_api.expect(locator)
