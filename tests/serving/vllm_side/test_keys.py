"""Keys with names: the file, the limits over several servers, and the guard that holds to both."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.vllm_side.middleware.api_keys import LARGEST_LIMIT, Key, KeyFile, digest, parse
from tests.serving.vllm_side.inside import run_inside
from tests.support.serving import ROOT, clean_environment

if TYPE_CHECKING:
    from pathlib import Path

MIDDLEWARE = ROOT / "serving" / "vllm_side" / "middleware"
NAMES = st.from_regex(r"[A-Za-z0-9_.@-]{1,20}", fullmatch=True)
LIMITS = st.none() | st.integers(1, LARGEST_LIMIT)
KEYS = st.builds(Key, NAMES, st.binary(min_size=32, max_size=32), LIMITS, LIMITS)


@settings(max_examples=100)
@given(st.lists(KEYS, unique_by=lambda key: key.name))
def test_what_is_written_is_what_is_read(keys):
    assert parse("\n".join(key.line() for key in keys)) == (tuple(keys), ())


@settings(max_examples=200)
@given(
    st.text(max_size=80)
    | st.lists(
        st.sampled_from(["a", "sha256:" + "0" * 64, "at_once=3", "#", "\n", "x=1", "sk-secret"]), max_size=9
    ).map(" ".join)
)
def test_any_text_is_keys_and_sentences_that_quote_nothing_secret(text):
    keys, problems = parse(text)
    assert len({key.name for key in keys}) == len(keys)
    assert all(len(key.digest) == 32 for key in keys)
    assert not any("sk-secret" in problem for problem in problems)


def test_a_file_that_changes_is_read_again_and_one_that_is_gone_holds_no_key(tmp_path):
    path = tmp_path / "keys"
    keys = KeyFile(path)
    assert keys.find(digest(b"one")) is None
    path.write_text(Key("one", digest(b"one")).line() + "\n")
    assert keys.find(digest(b"one")).name == "one"
    path.write_text(Key("two", digest(b"two")).line() + "\n")  # as long, in the same moment
    assert keys.find(digest(b"one")) is None
    assert keys.find(digest(b"two")).name == "two"
    os.utime(path, (1, 1))
    assert keys.find(digest(b"two")).name == "two"
    path.unlink()
    assert keys.find(digest(b"two")) is None


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 5)), min_size=1, max_size=40),
    st.booleans(),
)
def test_no_minute_holds_more_requests_than_allowed_whatever_comes_when(tmp_path_factory, steps, limit_changes):
    """Against the plain meaning: a request may come if fewer than N came in the 60 seconds before it."""
    sys.path.insert(0, str(MIDDLEWARE))
    try:
        counts = importlib.import_module("api_key_limits")
    finally:
        sys.path.remove(str(MIDDLEWARE))
    count = counts._Count(tmp_path_factory.mktemp("counts") / "one")
    came, now, limits = [], 1000.0, []
    for pause, wish in steps:
        now += pause
        limits.append(wish if limit_changes else steps[0][1])
        recent = [time for time in came if now - time < 60]
        wait = count.wait(limits[-1], now)
        assert 0 <= wait <= 60
        if wait == 0:
            assert len(recent) < limits[-1]
            came.append(now)
        else:
            assert len(recent) >= limits[-1]
    os.close(count._file)


@pytest.fixture
def servers(tmp_path):
    """Two servers behind guards that share a file of keys, as the engines of a fleet do; each in its own process."""
    file = tmp_path / "keys"
    file.touch()
    environment = clean_environment(
        VLLM_API_KEY="the-operators",
        SERVE_API_KEYS_FILE=str(file),
        SERVE_API_KEYS_STATE=str(tmp_path / "state"),
        PYTHONPATH=str(MIDDLEWARE),
    )
    command = [sys.executable, "-m", "tests.support.guarded_server"]
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    urls = [f"http://127.0.0.1:{server.stdout.readline().strip()}" for server in running]
    yield file, running, urls
    for server in running:
        server.kill()
        server.wait()
        server.stdout.close()


def write(file: Path, *keys: Key) -> None:
    file.write_text("".join(f"{key.line()}\n" for key in keys))


@contextlib.asynccontextmanager
async def caller(key: str):
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {key}"}) as session:
        yield session


async def work(session, url):
    """A request that runs until `release`; return its status and Retry-After."""
    async with session.post(url + "/work") as response:
        await response.read()
        return response.status, response.headers.get("Retry-After")


async def get(session, url):
    async with session.get(url) as response:
        assert response.status == 200
        return await response.text()


async def test_a_limit_holds_to_the_request_under_200_callers_at_once_over_two_servers(servers):
    file, _, urls = servers
    write(file, Key("team", digest(b"k"), at_once=7))
    async with caller("k") as session:
        for _ in range(2):  # every place comes back
            asked = {asyncio.create_task(work(session, urls[number % 2])) for number in range(200)}
            refused = set()
            while len(refused) < 193:
                done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=60)
                refused |= {(id(task), *task.result()) for task in done}
            assert {answer[1:] for answer in refused} == {(429, "1")}
            assert len(asked) == 7
            for url in urls:
                await get(session, url + "/release")
            assert [await task for task in asked] == [(200, None)] * 7


async def test_a_minute_takes_as_many_requests_as_it_may_over_two_servers(servers):
    file, _, urls = servers
    write(file, Key("team", digest(b"k"), per_minute=50))
    async with caller("k") as session:
        for url in urls:
            await get(session, url + "/open")
        answers = await asyncio.gather(*(work(session, urls[number % 2]) for number in range(200)))
    assert sorted(status for status, _ in answers) == [200] * 50 + [429] * 150
    assert all(1 <= int(wait) <= 60 for status, wait in answers if status == 429)


async def test_what_no_model_works_for_is_not_counted(servers):
    file, _, urls = servers
    write(file, Key("team", digest(b"k"), per_minute=1))
    async with caller("k") as session:
        for method, path in (("POST", "/tokenize"), ("GET", "/name"), ("POST", "/tokenize")):
            async with session.request(method, urls[0] + path) as response:
                assert response.status == 200
        await get(session, urls[0] + "/open")
        assert [(await work(session, urls[0]))[0] for _ in range(2)] == [200, 429]


async def test_the_places_of_a_server_that_was_killed_are_free_again(servers):
    file, running, urls = servers
    write(file, Key("team", digest(b"k"), at_once=2))
    async with caller("k") as session:
        held = [asyncio.create_task(work(session, urls[0])) for _ in range(2)]
        while await get(session, urls[0] + "/waiting") != "2":
            await asyncio.sleep(0.01)
        await get(session, urls[1] + "/open")
        assert (await work(session, urls[1]))[0] == 429
        running[0].send_signal(signal.SIGKILL)
        running[0].wait()
        for task in held:
            with pytest.raises(aiohttp.ClientError):
                await task
        assert await work(session, urls[1]) == (200, None)


async def test_vllms_own_check_meets_the_key_that_it_knows_whichever_was_sent(servers):
    file, _, urls = servers
    write(file, Key("ann", digest(b"a")))
    async with aiohttp.ClientSession() as session:
        for headers in ({"x-api-key": "a"}, {"Authorization": "bearer a"}, {"x-api-key": "the-operators"}):
            async with session.get(urls[0] + "/asked", headers=headers) as response:
                assert await response.text() == "Bearer the-operators"


@pytest.mark.engine
def test_vllms_own_check_lets_every_known_key_through(tmp_path):
    write(tmp_path / "keys", Key("ann", digest(b"a")))
    environment = clean_environment(VLLM_API_KEY="the-operators", SERVE_API_KEYS_FILE=str(tmp_path / "keys"))
    found = run_inside("ask_in_engine.py", MIDDLEWARE, env=environment)
    assert {way: status for way, status in found.items() if status != 200} == {"wrong": 401, "wrong, plain": 401}


async def test_a_removed_key_is_refused_at_once_and_the_others_and_their_names_stay(servers):
    file, _, urls = servers
    write(file, Key("ann", digest(b"a")), Key("bob", digest(b"b")))
    for key, name in (("a", "ann"), ("b", "bob"), ("the-operators", "SERVE_API_KEY")):
        async with caller(key) as session:
            assert await get(session, urls[0] + "/name") == name
    write(file, Key("bob", digest(b"b")))
    for key, status in (("a", 401), ("b", 200), ("the-operators", 200)):
        async with caller(key) as session, session.get(urls[0] + "/name") as response:
            assert response.status == status
    async with caller("b") as session:
        assert 'key_total{key="",outcome="unknown_key"} 1.0' in await get(session, urls[0] + "/metrics")


def key(*arguments: str, file: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "key", *arguments],
        cwd=ROOT,
        env=clean_environment(SERVE_API_KEYS_FILE=str(file)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_key_is_made_listed_and_removed(tmp_path):
    file = tmp_path / "new" / "keys.txt"
    made = key("add", "ann", "--at-once", "4", "--per-minute", "60", file=file).stdout.strip()
    file.write_text("# ours\n" + file.read_text())
    key("add", "bob", file=file)
    assert "There is a key named 'ann' already" in key("add", "ann", file=file, status=1).stderr

    assert file.stat().st_mode & 0o777 == 0o600
    assert made not in file.read_text()
    assert KeyFile(file).find(digest(made.encode())) == Key("ann", digest(made.encode()), 4, 60)
    assert key("list", file=file).stdout == "ann  4 at once, 60 a minute\nbob  no limit\n"
    assert json.loads(key("list", "--json", file=file).stdout)[1] == {
        "name": "bob",
        "at_once": None,
        "per_minute": None,
    }

    key("remove", "ann", file=file)
    assert KeyFile(file).find(digest(made.encode())) is None
    assert file.read_text().startswith("# ours\nbob ")
    assert "There is no key named 'ann'" in key("remove", "ann", file=file, status=1).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "a b"), "NAME 'a b' is not allowed"),
        (("add", "SERVE_API_KEY"), "is not allowed"),
        (("add", "ann", "--at-once", "0"), "--at-once 0 is not allowed"),
        (("add", "ann", "--file", "/proc/nowhere/keys"), "cannot be used"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(tmp_path, arguments, said):
    assert said in key(*arguments, file=tmp_path / "keys", status=2).stderr
