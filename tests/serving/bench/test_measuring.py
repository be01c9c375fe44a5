"""What a load test measures of a server whose every delay is known, in virtual time: exact, and over in no time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bench.goal import Goal, carried, climb, climb_and_narrow, read_seconds
from serving.bench.level import Asked, OwnCost, Spread, measured
from serving.bench.load import Arrivals, Users
from serving.bench.run import measure
from tests.serving.bench.virtual_time import run

FREE = OwnCost(0.1, 20.0, 0.0)


class Server:
    """Answers after `first` seconds with `tokens` tokens; each takes `each(n)` seconds while n requests are answered."""

    def __init__(self, first=0.2, each=0.02, tokens=64, at_once=None, fail=0.0):
        self.first, self.tokens, self.fail = first, tokens, fail
        self.each = each if callable(each) else lambda _: each
        self.steps = 6 if callable(each) else 1  # how often it is asked for within an answer
        self.running = 0
        self.slots = asyncio.Semaphore(at_once) if at_once else None
        self.dice = random.Random(1)
        self.most = self.calls = self.cut = 0

    async def ask(self, due):
        loop = asyncio.get_running_loop()
        self.calls += 1
        if self.dice.random() < self.fail:
            await asyncio.sleep(0.01)
            return Asked(due, None, loop.time(), error="ServerError")
        if self.slots:
            await self.slots.acquire()
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.first)
            first = loop.time()
            for _ in range(self.steps):
                await asyncio.sleep(self.each(self.running) * (self.tokens - 1) / self.steps)
            return Asked(due, first, loop.time(), 32, self.tokens)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        finally:
            self.running -= 1
            if self.slots:
                self.slots.release()


def level(load, least_s=20.0, **server):
    async def go():
        made = Server(**server)
        found = await measure(load if not callable(load) else load(), made.ask, least_s)
        return found, made

    return run(go())


@settings(max_examples=50)
@given(
    st.integers(1, 40),
    st.floats(0.01, 2.0),
    st.floats(0.005, 0.2),
    st.integers(8, 200),
)
def test_times_and_rates_of_users_are_the_servers_own(users, first, each, tokens):
    found, server = level(Users(users), first=first, each=each, tokens=tokens)
    turn = first + (tokens - 1) * each
    assert found.first_token.median == pytest.approx(first, rel=0.01)
    assert found.speed.median == pytest.approx(1 / each, rel=0.01)
    assert found.whole.tail == pytest.approx(turn, rel=0.01)
    assert found.tokens_per_second == pytest.approx(users * tokens / turn, rel=0.05)
    assert found.at_once == pytest.approx(users, rel=0.05)
    assert found.requests >= users
    assert server.most == users
    assert server.running == 0, "what was under way is cut off"


@pytest.mark.parametrize("rate", [0.5, 4.0, 20.0])
def test_requests_that_arrive_by_themselves(rate):
    found, _ = level(lambda: Arrivals(rate, random.Random(3)), least_s=400 / rate)
    turn = 0.2 + 63 * 0.02
    assert found.first_token.median == pytest.approx(0.2, rel=0.01)
    assert found.requests / found.seconds == pytest.approx(rate, rel=0.1)
    assert found.tokens_per_second == pytest.approx(found.requests / found.seconds * 64, rel=0.05)
    assert found.at_once == pytest.approx(found.requests / found.seconds * turn, rel=0.05)


def test_who_has_to_wait_for_a_place_waits_from_when_he_came():
    found, _ = level(lambda: Arrivals(2.0, random.Random(3)), least_s=100, at_once=1)
    assert found.first_token.median > 20, "one answer takes 1.46 s, and two come each second"


def test_all_that_counts_is_answered_under_the_load():
    found, server = level(Users(5), least_s=10)
    assert 31 <= found.requests <= 35  # seven turns of one, six or seven of each other
    assert server.calls >= found.requests + 5
    assert server.cut == 0 or server.cut == 5


def test_errors_are_counted_by_class_and_do_not_spin():
    found, _ = level(Users(4), fail=1.0, least_s=10)
    assert found.errors == {"ServerError": found.requests}
    assert found.requests < 4 * 10 / 0.5 + 8
    assert found.tokens_per_second == 0
    assert found.first_token is None
    assert "requests failed (ServerError)" in Goal(1, 1).missed(found)


@settings(max_examples=20)
@given(st.integers(1, 90), st.integers(8, 120))
def test_the_knee_is_found_where_it_was_built_in(knee, tokens):
    """Up to `knee` users each gets 50 tokens/s; beyond, they share what there is."""
    goal = Goal(0.5, 40)

    async def go():
        async def one(load):
            server = Server(each=lambda running: 0.02 * max(1.0, running / knee), tokens=tokens)
            return await measure(Users(load), server.ask, 2.0)

        return await climb_and_narrow(64, one, goal)

    levels = run(go())
    best = carried(levels, goal)
    most = knee * 50 / 40  # there each still has 40
    if most >= 64:
        assert best.load == 64
    elif most < 1:
        assert best is None
    else:
        assert best.load <= most * 1.001
        assert most < best.load + max(1, best.load // 8) + 1
    loads = [level.load for level in levels]
    assert loads == sorted(set(loads))
    assert len(loads) <= 13


def test_the_climb_ends_where_the_goal_breaks():
    goal = Goal(0.5, 10)

    async def go():
        async def one(load):
            return await measure(Users(load), Server(first=0.1 * load).ask, 5.0)

        return await climb([1, 4, 8, 16, 32], one, goal)

    assert [found.load for found in run(go())] == [1, 4, 8]


def test_one_request_in_twenty_may_miss_the_goal_and_no_more():
    asked = [Asked(0, 0.1, 2.1, 10, 41)] * 95 + [Asked(0, 9.0, 11.0, 10, 41)] * 5
    assert Goal(0.5, 20).missed(measured(1, asked, 0, 20, FREE)) == ""
    asked.append(Asked(0, 9.0, 11.0, 10, 41))
    assert "the first token takes up to 9 s" in Goal(0.5, 20).missed(measured(1, asked, 0, 20, FREE))


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200))
def test_nineteen_of_twenty_keep_the_tail(values):
    worst, least = Spread.of(values), Spread.of(values, more_is_better=True)
    assert sum(value <= worst.tail for value in values) >= 0.95 * len(values)
    assert sum(value < worst.tail for value in values) < 0.95 * len(values)
    assert sum(value >= least.tail for value in values) >= 0.95 * len(values)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30), st.integers(0, 500)), max_size=30))
def test_no_token_counts_twice_or_outside_of_the_time(requests):
    asked = [Asked(first, first, first + length, 5, tokens) for first, length, tokens in requests]
    before, after = (sum(one.tokens_within(*part) for one in asked) for part in ((0, 17.0), (17.0000001, 61)))
    assert before + after == pytest.approx(sum(one.tokens_out for one in asked), rel=1e-3, abs=1e-3)


def test_the_client_is_blamed_where_it_is_the_limit():
    found, _ = level(Users(2))
    assert measured(1, [Asked(0, 0.5, 1, 1, 9)], 0, 1, replace(FREE, cpu_share=0.97)).client_limits.startswith(
        "the client took 97%"
    )
    late = measured(1, [Asked(0, 0.5, 1, 1, 9)], 0, 1, replace(FREE, late=0.08)).client_limits
    assert "80 ms late" in late
    assert measured(1, [Asked(0, 0.5, 1, 1, 9)], 0, 1, FREE).client_limits == ""
    assert found.own.late == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("1s", 1), ("0.25", 0.25), (" 2 s ", 2), (".5s", 0.5)])
def test_times_are_read_as_people_write_them(text, seconds):
    assert read_seconds(text) == seconds


@given(st.text(max_size=8))
def test_any_text_is_a_time_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert read_seconds(text) > 0
