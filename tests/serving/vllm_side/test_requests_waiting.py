"""How many requests wait for an answer, in any order of what a server and its callers do."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.serving import ROOT

FILE = ROOT / "serving" / "vllm_side" / "middleware" / "requests_waiting.py"
WHOLE = {"type": "http.request", "body": b"{}", "more_body": False}
PART = {"type": "http.request", "body": b"{", "more_body": True}
GONE = {"type": "http.disconnect"}
HEAD = {"type": "http.response.start", "status": 200, "headers": []}
EMPTY = {"type": "http.response.body", "body": b"", "more_body": True}
TOKEN = {"type": "http.response.body", "body": b"data: x", "more_body": True}
END = {"type": "http.response.body", "body": b"", "more_body": False}


class Gauge:
    value = 0

    def inc(self) -> None:
        self.value += 1

    def dec(self) -> None:
        self.value -= 1


@pytest.fixture(scope="module")
def middleware() -> Any:
    spec = importlib.util.spec_from_file_location("requests_waiting", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RequestsWaiting


async def run(
    middleware: Any, received: list[dict[str, Any]], sent: list[dict[str, Any]], *, fails: bool, method: str = "POST"
) -> list[int]:
    """Run one request; return what the gauge said after each message, and at the end."""
    gauge, seen, passed = Gauge(), [], []

    async def receive() -> dict[str, Any]:
        return received[len(seen)]

    async def send(message: dict[str, Any]) -> None:
        passed.append(message)

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        for _ in received:
            await receive()
            seen.append(gauge.value)
        for message in sent:
            await send(message)
            seen.append(gauge.value)
        if fails:
            raise ValueError

    made = middleware(app)
    made._gauge = gauge
    try:
        await made({"type": "http", "method": method}, receive, send)
    except ValueError:
        assert fails
    assert passed == sent
    return [*seen, gauge.value]


def test_it_waits_from_the_end_of_the_body_to_the_first_byte(middleware: Any) -> None:
    seen = asyncio.run(run(middleware, [PART, WHOLE], [HEAD, EMPTY, TOKEN, TOKEN, END], fails=False))
    assert seen == [0, 1, 1, 1, 0, 0, 0, 0]


def test_an_empty_answer_is_one(middleware: Any) -> None:
    assert asyncio.run(run(middleware, [WHOLE], [HEAD, END], fails=False)) == [1, 1, 0, 0]


def test_who_only_looks_does_not_count(middleware: Any) -> None:
    assert set(asyncio.run(run(middleware, [WHOLE], [HEAD, END], fails=False, method="GET"))) == {0}


@given(
    st.lists(st.sampled_from([WHOLE, PART, GONE])),
    st.lists(st.sampled_from([HEAD, EMPTY, TOKEN, END])),
    st.booleans(),
)
def test_nothing_is_counted_twice_and_nothing_stays(
    middleware: Any, received: list[dict[str, Any]], sent: list[dict[str, Any]], fails: bool
) -> None:
    seen = asyncio.run(run(middleware, received, sent, fails=fails))
    assert set(seen) <= {0, 1}
    assert seen[-1] == 0
