"""The page at the server's own address: as an ASGI class, and in a browser in front of a stand-in for vLLM."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from tests.support.browser import browser

SIDE = Path(__file__).parents[3] / "serving" / "vllm_side"
METRICS = (Path(__file__).parents[1] / "engine" / "metrics-0.32.txt").read_text()
KEY = "a-key-for-the-page"
ABOUT = {
    "model": "the-model",
    "summary": "<b>summary</b>",
    "banner": "TRY-OUT MODEL",
    "images": True,
    "limits": {"requests": 8.7},
    "plan": [{"value": "8.7", "label": "requests of 8,192 tokens at once, planned"}],
}
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> \x1b]52;c;aGk=\x07 '


def load(folder, module, name):
    sys.path.insert(0, str(SIDE / folder))
    try:
        return getattr(importlib.import_module(module), name)
    finally:
        sys.path.remove(str(SIDE / folder))


class Vllm:
    """What the page meets: vLLM's routes, its guard and the page, in one process on a port of loopback."""

    def __init__(self, key, monkeypatch):
        monkeypatch.setenv("SERVE_PAGE_ABOUT", json.dumps(ABOUT))
        self.requests = []
        self.running = 0
        self.aborted = threading.Event()
        self.pieces = ["Hel", "lo"]
        self.finish = "stop"
        self.tokens = 100.0
        app = FastAPI()
        app.add_api_route("/metrics", self.metrics, methods=["GET"])
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_middleware(load("page", "live_page", "LivePage"))
        if key:
            monkeypatch.setenv("VLLM_API_KEY", key)
            monkeypatch.setenv("SERVE_PAGE", "1")
            app.add_middleware(load("middleware", "api_key_guard", "ApiKeyGuard"))
        config = uvicorn.Config(app, port=0, log_level="critical", lifespan="on")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    async def metrics(self):
        self.tokens += 40
        text = METRICS.replace("vllm:generation_tokens_total{", 'vllm:generation_tokens_total{was="so",')
        lines = [line for line in text.splitlines() if not line.startswith("vllm:generation_tokens_total")]
        gauge = f'vllm:num_requests_running{{engine="1"}} {self.running}.0'
        return PlainTextResponse("\n".join([*lines, f"vllm:generation_tokens_total {self.tokens}", gauge, ""]))

    async def chat(self, request: Request):
        body = await request.json()
        self.requests.append(body)
        if body["messages"][-1]["content"] == "fail":
            return JSONResponse({"error": {"message": "<b>no</b> room"}}, status_code=400)

        async def events():
            self.running += 1
            whole = False
            try:
                for piece in self.pieces:
                    yield self.chunk({"content": piece})
                    await asyncio.sleep(0.01)
                if self.finish:
                    yield self.chunk({}, self.finish)
                    yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 7}})}\n\n"
                    yield "data: [DONE]\n\n"
                whole = True
            finally:
                self.running -= 1
                if not whole:
                    self.aborted.set()

        return StreamingResponse(events(), media_type="text/event-stream")

    @staticmethod
    def chunk(delta, finish=None):
        return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}]})}\n\n"

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            threading.Event().wait(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        return self

    def __exit__(self, *_exc):
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join(10)


@pytest.fixture
def vllm(monkeypatch):
    with Vllm(None, monkeypatch) as running:
        yield running


@pytest.fixture
def guarded(monkeypatch):
    with Vllm(KEY, monkeypatch) as running:
        yield running


@pytest.fixture
def page():
    with browser() as chrome:
        yield from watched(chrome.new_page(viewport={"width": 1000, "height": 800}))


def watched(opened):
    """Note what a page asks for, and what breaks in it."""
    opened.set_default_timeout(60_000)
    opened.asked = []
    opened.broken = []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.broken.append(str(error)))
    opened.on("console", lambda message: opened.broken.append(message.text) if message.type == "error" else None)
    yield opened


def until(page, condition):
    """Wait for a condition in the page. (The browser's own way would be `eval`, which the page's policy forbids.)"""
    deadline = time.monotonic() + 60
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def ask(page, text):
    page.fill("#question", text)
    page.keyboard.press("Enter")


def answered(page, number):
    until(page, f"document.querySelectorAll('.turn.assistant:not(.waiting)').length >= {number}")
    return page.locator(".turn.assistant").nth(number - 1)


def test_a_question_streams_and_the_conversation_goes_on(vllm, page):
    page.goto(vllm.url)
    page.wait_for_selector("#question")
    ask(page, "hi")
    assert answered(page, 1).locator("p").first.inner_text() == "Hello"
    assert "7 tokens" in answered(page, 1).inner_text()
    vllm.finish = "length"
    vllm.pieces = ["Look:\n```python\nprint(1)\n```\nso"]
    ask(page, "and?")
    assert "cut at max_tokens" in answered(page, 2).inner_text()
    assert answered(page, 2).locator("pre code").inner_text() == "print(1)"
    assert [m["role"] for m in vllm.requests[1]["messages"]] == ["user", "assistant", "user"]
    assert vllm.requests[0]["max_tokens"] == 512
    assert "temperature" not in vllm.requests[0]
    page.reload()
    until(page, "document.querySelectorAll('.turn').length == 4")  # kept in the tab
    assert page.evaluate("localStorage.length") == 0
    assert page.broken == []


def test_nothing_that_anybody_wrote_is_run_and_nothing_leaves_the_origin(vllm, page):
    page.goto(vllm.url)
    page.wait_for_selector("#question")
    vllm.pieces = [HOSTILE[:9], HOSTILE[9:], "```" + HOSTILE]
    ask(page, HOSTILE.strip())
    text = answered(page, 1).inner_text()
    assert "<img src=x onerror" in text
    ask(page, "fail")
    assert "<b>no</b> room" in answered(page, 2).inner_text()
    assert page.locator("#turns img, #turns script, #turns b").count() == 0
    assert page.inner_text("#summary") == "<b>summary</b>"
    assert page.evaluate("window.hacked") is None
    assert [url for url in page.asked if not url.startswith(vllm.url)] == []


def test_an_image_that_is_dropped_anywhere_is_sent_and_nothing_else_is(vllm, page):
    page.goto(vllm.url)
    page.wait_for_selector("#pick:not([hidden])")
    page.evaluate(
        """(png) => {
          const data = new DataTransfer();
          const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
          data.items.add(new File([bytes], "dot.png", { type: "image/png" }));
          data.items.add(new File(["<script>window.hacked = 1</script>"], "page.html", { type: "text/html" }));
          const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
          document.getElementById("turns").dispatchEvent(drop);
        }""",
        DOT,
    )
    until(page, "document.querySelectorAll('#images img').length == 1")
    ask(page, "what is it?")
    assert "Hello" in answered(page, 1).inner_text()
    image, text = vllm.requests[0]["messages"][0]["content"]
    assert image == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DOT}"}}
    assert text == {"type": "text", "text": "what is it?"}
    assert page.locator(".turn.user img").count() == 1
    assert page.broken == []


def test_stop_ends_the_request_at_the_server(vllm, page):
    page.goto(vllm.url)
    page.wait_for_selector("#question")
    vllm.pieces = ["la "] * 100_000
    ask(page, "sing")
    until(page, "document.querySelector('.turn.assistant')?.innerText.includes('la la')")
    page.keyboard.press("Escape")
    assert vllm.aborted.wait(30)
    assert "stopped" in answered(page, 1).inner_text()
    assert vllm.running == 0


def test_an_answer_that_breaks_off_says_so(vllm, page):
    page.goto(vllm.url)
    page.wait_for_selector("#question")
    vllm.finish = None
    ask(page, "hi")
    assert "broke off" in answered(page, 1).inner_text()


def test_a_key_is_asked_for_once_and_stands_in_no_address_and_no_lasting_place(guarded, page):
    page.goto(guarded.url)
    page.wait_for_selector("#key-form:not([hidden])")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('key-error').textContent.includes('refused')")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    until(page, "document.getElementById('model').textContent == 'the-model'")
    ask(page, "hi")
    assert "Hello" in answered(page, 1).inner_text()
    assert not [url for url in page.asked if KEY in url]
    assert page.evaluate("localStorage.length") == 0
    assert page.evaluate("document.cookie") == ""
    page.reload()
    until(page, "document.getElementById('model').textContent == 'the-model'")


def test_the_charts_follow_the_server_and_a_day_of_watching_takes_no_more_than_ten_minutes(vllm, page):
    page.goto(vllm.url + "#watch")
    until(page, "document.querySelectorAll('.figure b')[1]?.textContent > '0'")
    assert "8.7" in page.inner_text("#figures")
    assert page.locator("canvas").first.get_attribute("aria-label").startswith("Requests: running 0")
    size = page.evaluate(
        """async () => {
          const { Watch } = await import('./ui/watch.js');
          const { parse } = await import('./ui/metrics.js');
          const text = await (await fetch('metrics')).text();
          const watch = Object.create(Watch.prototype);
          Object.assign(watch, { samples: [], points: [], about: {}, state: () => {}, draw: () => {} });
          for (let second = 0; second < 86400; second += 2) watch.take(parse(text), second);
          return [watch.points.length, watch.samples.length];
        }"""
    )
    assert size == [300, 6]


@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_its_window(vllm, page, width):
    page.set_viewport_size({"width": width, "height": 800})
    for panel in ("", "#watch"):
        page.goto(vllm.url + panel)
        until(page, "document.getElementById('model').textContent == 'the-model'")
        page.reload()
        until(page, "document.getElementById('model').textContent == 'the-model'")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_reaches_both_panels(vllm, page):
    page.goto(vllm.url)
    until(page, "document.getElementById('model').textContent == 'the-model'")
    page.focus("#tab-try")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#watch")
    assert page.evaluate("document.activeElement.id") == "tab-watch"


async def call(app, path, method="GET"):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    await app({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    return sent


async def inner(scope, receive, send):
    await send({"type": "http.response.start", "status": 418, "headers": []})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/ui/page.js", 200),
        ("GET", "/ui/about.json", 200),
        ("POST", "/", 418),
        ("GET", "/ui/../live_page.py", 418),
        ("GET", "/ui/live_page.py", 418),
        ("GET", "/v1/models", 418),
    ],
)
async def test_its_own_files_and_nothing_else(method, path, status):
    sent = await call(load("page", "live_page", "LivePage")(inner), path, method)
    assert sent[0]["status"] == status
    if status == 200:
        headers = dict(sent[0]["headers"])
        assert b"default-src 'none'" in headers[b"content-security-policy"]
        assert b"unsafe" not in headers[b"content-security-policy"]
        assert len(sent[1]["body"]) == (0 if method == "HEAD" else int(headers[b"content-length"]))
