"""When a vLLM that runs is given up, and when it is not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.watchdog import Core, Sight, Watchdog, read_sight

FINE = Sight(healthy=True, tokens=5.0, running=0.0)
# As vLLM 0.32 writes it.
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:generation_tokens_total{engine="0",model_name="m"} 12345.0
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:prompt_tokens_total{engine="0",model_name="m"} 1e+02
http_requests_total{handler="/v1/chat/completions",method="POST",status="2xx"} 7.0
http_requests_total{handler="/v1/chat/completions",method="POST",status="4xx"} 70.0
http_requests_total{handler="/v1/completions",method="POST",status="5xx"} 3.0
"""


def watch(sights, every=2.0, **options):
    """Return what is said of a row of (sight, how long it is seen), and when."""
    watchdog, now = Watchdog(0.0, stalled_after=180.0), 0.0
    for sight, seconds in sights:
        for _ in range(round(seconds / every)):
            now += every
            if reason := watchdog.judge(sight, now, **options):
                return now, reason
    return now, None


def test_what_metrics_say_is_read():
    assert read_sight(METRICS) == Sight(healthy=True, tokens=12445.0, running=3.0, served=7.0, failed=3.0)
    assert read_sight("") == Sight(healthy=True)


@given(st.text())
def test_any_text_is_read(text):
    assert read_sight(text).healthy


def test_a_silent_process_is_given_up_after_a_minute():
    now, reason = watch([(FINE, 10), (Sight(healthy=False), 300)])
    assert 70 < now <= 74
    assert "/health" in reason


def test_a_core_that_stands_still_while_requests_run_is_given_up_after_the_longer_time():
    busy = Sight(healthy=True, tokens=5.0, running=2.0)
    assert 180 < watch([(busy, 600)])[0] <= 186


def test_a_core_that_computes_is_left_alone_for_a_long_prefill_and_not_for_ever():
    watchdog, cpu = Watchdog(0.0, stalled_after=180.0), 0.0
    for now in range(0, 900, 2):
        cpu += 0.5
        assert watchdog.judge(Sight(healthy=True, tokens=5.0, running=1.0, core=Core(cpu=cpu)), float(now)) is None
    assert "busy for 90" in watchdog.judge(Sight(healthy=True, tokens=5.0, running=1.0, core=Core(cpu=cpu)), 902.0)


def test_a_core_that_hardly_computes_stands_still():
    now, reason = None, None
    watchdog = Watchdog(0.0, stalled_after=180.0)
    for now in range(0, 600, 2):
        sight = Sight(healthy=True, tokens=5.0, running=1.0, core=Core(cpu=now * 0.01))
        if reason := watchdog.judge(sight, float(now)):
            break
    assert 180 < now <= 186
    assert "requests wait for it: 1" in reason


def test_a_shorter_patience_is_one_for_silence_too():
    watchdog = Watchdog(0.0, stalled_after=5.0)
    assert watchdog.judge(Sight(healthy=False), 4.0) is None
    assert "/health" in watchdog.judge(Sight(healthy=False), 6.0)


@pytest.mark.parametrize("sight", [Sight(healthy=False), Sight(healthy=True, tokens=5.0, running=2.0)])
def test_who_was_paused_as_well_does_not_count_the_pause(sight):
    watchdog = Watchdog(0.0)
    watchdog.judge(sight, 1.0)
    assert watchdog.judge(sight, 3600.0) is None


def test_a_core_that_hangs_before_it_has_reported_a_request_is_given_up() -> None:
    waits = read_sight("vllm:generation_tokens_total 5.0\nvllm:num_requests_running 0.0\nserve_requests_waiting 1.0\n")
    assert 180 < watch([(waits, 600)])[0] <= 186


def test_requests_that_the_core_never_saw_count_too():
    assert 180 < watch([(FINE, 600)], in_hand=3)[0] <= 186


def test_a_stopped_core_is_given_up_even_where_there_are_no_counters():
    now, reason = watch([(Sight(healthy=True, core=Core(stopped=True)), 600)])
    assert 180 < now <= 186
    assert "stopped" in reason


@pytest.mark.parametrize(
    "sight", [FINE, Sight(healthy=True), Sight(healthy=True, running=4.0)], ids=["idle", "unknown", "no tokens known"]
)
def test_what_is_idle_or_unknown_is_left_alone(sight):
    assert watch([(sight, 3600)]) == (3600.0, None)


def test_answers_that_are_all_5xx_for_a_minute_are_a_reason_and_4xx_are_none():
    watchdog = Watchdog(0.0)
    for now in range(0, 120, 5):
        watchdog.saw_end(404, now)
        assert watchdog.judge(FINE, now) is None
    for now in range(120, 180, 5):
        watchdog.saw_end(500, now)
        watchdog.saw_end(400, now)
        assert watchdog.judge(FINE, now) is None
    assert "5xx" in watchdog.judge(FINE, 181)


def test_the_counters_of_a_worker_that_sees_no_request_tell_too():
    watchdog = Watchdog(0.0)
    reasons = [
        watchdog.judge(Sight(healthy=True, served=7.0, failed=float(now)), float(now)) for now in range(0, 120, 10)
    ]
    assert reasons[:7] == [None] * 7
    assert "5xx" in reasons[-1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([200, 201, 400, 404, 429, 500, 503]), min_size=1, max_size=60), st.data())
def test_a_vllm_that_serves_somebody_each_minute_is_never_given_up(statuses, data):
    watchdog, now, tokens = Watchdog(0.0), 0.0, 0.0
    for status in statuses:
        now += data.draw(st.floats(0, 25))
        watchdog.saw_end(status, now)
        watchdog.saw_end(200, now)
        tokens += 1
        assert watchdog.judge(Sight(healthy=True, tokens=tokens, running=1.0), now) is None
