"""However a stream is left, the server sees the connection close within 200 ms."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

import pytest

from client import LLMClient, LLMTimeoutError
from tests.client.conftest import HELLO
from tests.support.fake_openai import FakeOpenAI, say, stall

Make = Callable[..., LLMClient]
ENDLESS = say(*["token "] * 1000, delay=0.02)


async def leave_with_break(client: LLMClient) -> float:
    async for _ in client.generate_streaming(HELLO):
        break
    return time.monotonic()


async def leave_with_an_exception(client: LLMClient) -> float:
    with suppress(ZeroDivisionError):
        async for _ in client.generate_streaming(HELLO):
            raise ZeroDivisionError
    return time.monotonic()


async def leave_with_aclosing(client: LLMClient) -> float:
    async with aclosing(client.generate_streaming(HELLO)) as stream:
        async for _ in stream:
            break
    assert stream is not None
    return time.monotonic()


async def drop_the_generator(client: LLMClient) -> float:
    stream = client.generate_streaming(HELLO)
    await anext(stream)
    del stream
    return time.monotonic()


async def drop_the_stream(client: LLMClient) -> float:
    stream = client.stream(HELLO)
    await anext(stream)
    del stream
    gc.collect()
    return time.monotonic()


async def leave_the_streams_block(client: LLMClient) -> float:
    async with client.stream(HELLO) as stream:
        async for _ in stream:
            break
    return time.monotonic()


async def cancel(work: Awaitable[object], after: float) -> float:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(after)
    task.cancel()
    left = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    return left


async def cancel_a_loop(client: LLMClient) -> float:
    async def loop() -> None:
        async for _ in client.generate_streaming(HELLO):
            pass

    return await cancel(loop(), 0.1)


async def cancel_generate(client: LLMClient) -> float:
    return await cancel(client.generate(HELLO), 0.1)


async def run_into_a_deadline(client: LLMClient) -> float:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.generate(HELLO)
    return time.monotonic()


WAYS = [
    leave_with_break,
    leave_with_an_exception,
    leave_with_aclosing,
    drop_the_generator,
    drop_the_stream,
    leave_the_streams_block,
    cancel_a_loop,
    cancel_generate,
    run_into_a_deadline,
]


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("leave", WAYS)
async def test_leaving_closes_the_connection(
    server: FakeOpenAI, make: Make, leave: Callable[[LLMClient], Awaitable[float]]
) -> None:
    server.script(ENDLESS)
    left = await leave(make(max_concurrency=1))
    assert await server.requests[0].wait_gone() - left < 0.2


async def test_cancelling_before_the_first_byte(server: FakeOpenAI, make: Make) -> None:
    server.script(stall)
    left = await cancel(make().generate(HELLO), 0.1)
    assert await server.requests[0].wait_gone() - left < 0.2


async def test_a_deadline_of_our_own(server: FakeOpenAI, make: Make) -> None:
    server.script(ENDLESS)
    with pytest.raises(LLMTimeoutError):
        await make(total_timeout=0.1).generate(HELLO)
    left = time.monotonic()
    assert await server.requests[0].wait_gone() - left < 0.2


async def test_a_timeout_around_the_call_is_the_callers(server: FakeOpenAI, make: Make) -> None:
    """A deadline of ours and a cancellation from outside are not mistaken for each other."""
    server.script(stall, stall)
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.1):
            await make(first_token_timeout=5).generate(HELLO)
    assert not isinstance(caught.value, LLMTimeoutError)
    async with asyncio.timeout(5):
        with pytest.raises(LLMTimeoutError):
            await make(first_token_timeout=0.1).generate(HELLO)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("leave", [leave_with_break, drop_the_stream, cancel_generate, drop_the_generator])
async def test_a_left_stream_gives_its_slot_back(
    server: FakeOpenAI, make: Make, leave: Callable[[LLMClient], Awaitable[float]]
) -> None:
    server.script(ENDLESS)
    client = make(max_concurrency=1)
    await leave(client)
    async with asyncio.timeout(2):
        assert await client.generate(HELLO) == "Hello"


async def test_requests_in_flight_are_limited(server: FakeOpenAI, make: Make) -> None:
    server.default = say("a", "b", delay=0.02)
    client = make(max_concurrency=3)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, server.connections)
            await asyncio.sleep(0.001)

    watcher = asyncio.create_task(watch())
    assert await asyncio.gather(*(client.generate(HELLO) for _ in range(20))) == ["ab"] * 20
    watcher.cancel()
    assert most == 3


async def test_300_streams_at_once(server: FakeOpenAI, make: Make) -> None:
    server.default = say(*"abcdefgh", delay=0.05)
    client = make()
    assert await asyncio.gather(*(client.generate(HELLO) for _ in range(300))) == ["abcdefgh"] * 300
    assert server.connections == 300
    await client.aclose()
    await asyncio.sleep(0.1)
    assert server.connections == 0


async def test_an_answer_read_to_its_end_leaves_its_connection_for_the_next(server: FakeOpenAI, make: Make) -> None:
    client = make()
    for _ in range(5):
        await client.generate(HELLO)
    assert len({id(exchange.writer) for exchange in server.requests}) == 1
