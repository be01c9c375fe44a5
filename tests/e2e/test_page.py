"""The page in a real browser, in front of the real engine: asked, stopped, watched, with a key, at two widths."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from client import LLMClient
from tests.e2e.test_serve import MODEL, running_requests
from tests.serving.vllm_side.test_page import answered, ask, until, watched
from tests.support.browser import browser

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# How long the first answer was, each time that something of it was painted.
WATCH_LENGTHS = """() => {
  window.lengths = new Set();
  const look = () => window.lengths.add(document.querySelector(".turn.assistant")?.innerText.length);
  new MutationObserver(look).observe(document.getElementById("turns"), { childList: true, subtree: true });
}"""
HOSTILE = 'Count from 1 to 1000, one by one, and do not stop. <img src=x onerror="window.hacked=1"> \x1b]0;owned\x07 <script>window.hacked=1</script>'


@pytest.fixture(scope="module")
def chrome():
    with browser() as running:
        yield running


@pytest.fixture
def page(chrome, smollm):
    """The page, opened with the key typed."""
    context = chrome.new_context(viewport={"width": 1400, "height": 900})
    for opened in watched(context.new_page()):
        opened.origin = f"http://127.0.0.1:{smollm.port}/"
        opened.goto(opened.origin)
        opened.wait_for_selector("#key-form:not([hidden])")
        opened.fill("#key", smollm.key)
        opened.keyboard.press("Enter")
        until(opened, f"document.getElementById('model').textContent == '{MODEL}'")
        yield opened
    context.close()


def test_a_question_is_answered_as_it_is_written_and_stopped_when_that_is_wished(page, smollm):
    assert "NOT GEMMA" in page.inner_text("#banner")
    page.click("#options summary")
    page.fill("#max-tokens", "24")
    page.evaluate(WATCH_LENGTHS)
    ask(page, "What is the capital of France?")
    said = answered(page, 1).inner_text()
    assert page.evaluate("window.lengths.size") > 2, "it was shown in pieces"
    assert "Paris" in said
    assert "tokens/s" in said
    assert "first token after" in said
    page.fill("#max-tokens", "2000")
    ask(page, HOSTILE)
    until(page, "document.querySelectorAll('.turn.assistant')[1]?.innerText.length > 0")
    page.click("#stop")
    assert "stopped" in answered(page, 2).inner_text()
    deadline = time.monotonic() + 60
    while running_requests(smollm):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#turns img, #turns script").count() == 0
    assert [url for url in page.asked if not url.startswith(page.origin)] == []
    assert [url for url in page.asked if smollm.key in url] == []
    assert page.evaluate("localStorage.length") == 0
    assert page.evaluate("document.cookie") == ""
    # The 401 before the key was typed is the only thing that the browser found worth a word.
    assert [text for text in page.broken if "401" not in text] == []


def test_the_charts_move_while_a_load_runs(page, smollm, tmp_path):
    seen = threading.Event()

    async def load():
        async with LLMClient(base_url=smollm.base_url, api_key=smollm.key, model=MODEL, max_tokens=60) as client:
            while not seen.is_set():
                questions = ([{"role": "user", "content": f"Count to {number}."}] for number in (30, 40, 50))
                await asyncio.gather(*(client.generate(question) for question in questions))

    page.click("#tab-watch")
    thread = threading.Thread(target=lambda: asyncio.run(load()))
    thread.start()
    try:
        label = "document.querySelector('#charts canvas').getAttribute('aria-label')"
        until(page, f"/running [1-3]\\b/.test({label})")
        speed = "document.querySelectorAll('#charts canvas')[1].getAttribute('aria-label')"
        until(page, f"/out [1-9]/.test({speed})")
    finally:
        seen.set()
        thread.join(120)
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=tmp_path / f"watch-{width}.png", full_page=True)
