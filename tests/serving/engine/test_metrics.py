"""What the kit reads of vLLM's metrics: a text that the real engine wrote, and what any other text may do."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine import metrics
from serving.engine.metrics import Sample, quantile, rate, read_sample

REAL = Path(__file__).with_name("metrics-0.32.txt").read_text()


def test_every_name_stands_in_what_the_real_engine_writes():
    sample = read_sample(REAL)
    for name in {*metrics.SUMMED, metrics.KV_CACHE} - {metrics.UNANSWERED}:  # which is ours
        assert sample.get(name) is not None, name
    for name in metrics.HISTOGRAMS:
        assert math.inf in sample.histograms[name], name
    assert sample.busy == 0


def test_copies_of_the_model_are_summed_and_the_fullest_cache_counts():
    second = REAL.replace('engine="0"', 'engine="1"').replace("# ", "# EOF# ")
    second = "\n".join(line for line in second.splitlines() if not line.startswith("#"))
    one, both = read_sample(REAL), read_sample(f'{REAL}{second}\nvllm:kv_cache_usage_perc{{engine="2"}} 0.75\n')
    assert both.get(metrics.GENERATED_TOKENS) == 2 * one.get(metrics.GENERATED_TOKENS)
    assert both.get(metrics.KV_CACHE) == 0.75
    assert both.histograms[metrics.FIRST_TOKEN][math.inf] == 2 * one.histograms[metrics.FIRST_TOKEN][math.inf]


def test_what_is_not_exported_is_absent_and_not_zero():
    sample = read_sample("# TYPE x counter\nx_total 1\n")
    assert sample.busy is None
    assert sample.get(metrics.GENERATED_TOKENS) is None
    assert rate(sample, sample, metrics.GENERATED_TOKENS, 1) is None


def test_a_counter_that_falls_is_a_new_vllm():
    old, new = Sample({metrics.GENERATED_TOKENS: 50.0}), Sample({metrics.GENERATED_TOKENS: 10.0})
    assert rate(old, new, metrics.GENERATED_TOKENS, 2) is None
    assert rate(new, old, metrics.GENERATED_TOKENS, 2) == 20


@given(st.lists(st.floats(0.001, 200), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_observation_that_it_names(observed, share):
    bounds = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 50, math.inf]
    buckets = {bound: float(sum(value <= bound for value in observed)) for bound in bounds}
    found = quantile(Sample({}, {"h": buckets}), "h", share)
    exact = sorted(observed)[max(0, math.ceil(share * len(observed)) - 1)]
    upper = next(bound for bound in bounds if exact <= bound)
    lower = max((bound for bound in bounds if bound < upper), default=0.0)
    assert lower <= found <= (upper if upper < math.inf else lower)


def test_a_quantile_of_nothing_is_none():
    buckets = Sample({}, {"h": {1.0: 5.0, math.inf: 5.0}})
    assert quantile(buckets, "h", 0.5, before=buckets) is None
    assert quantile(buckets, "other", 0.5) is None


@settings(max_examples=200)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from(REAL.splitlines()), max_size=5).map("\n".join),
        st.tuples(st.integers(0, 4000), st.integers(0, 60)).map(lambda cut: REAL[cut[0] : cut[0] + cut[1]]),
    )
)
def test_any_text_is_a_sample_or_a_value_error(text):
    try:
        sample = read_sample(text)
    except ValueError:
        return
    assert all(isinstance(value, float) for value in sample.numbers.values())
