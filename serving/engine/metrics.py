"""What a running vLLM says of itself at `/metrics`: one sample, and what two samples say of the time between them.

Names and meanings are those of vLLM 0.32 (`vllm/v1/metrics/loggers.py`), in the Prometheus text format. Engines, which
are copies of the model, are summed, but for the cache's share, where the fullest counts: there requests wait.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_CACHE = "vllm:kv_cache_usage_perc"
PROMPT_TOKENS = "vllm:prompt_tokens_total"
GENERATED_TOKENS = "vllm:generation_tokens_total"
PREFIX_QUERIES = "vllm:prefix_cache_queries_total"
PREFIX_HITS = "vllm:prefix_cache_hits_total"
PREEMPTIONS = "vllm:num_preemptions_total"
UNANSWERED = "serve_requests_waiting"  # of a middleware of ours: no byte of an answer yet
ANSWERS = "http_requests_total"  # of the server around vLLM's engine
FIRST_TOKEN = "vllm:time_to_first_token_seconds"  # noqa: S105 (a metric, not a secret)
BETWEEN_TOKENS = "vllm:inter_token_latency_seconds"

SUMMED = (RUNNING, WAITING, PROMPT_TOKENS, GENERATED_TOKENS, PREFIX_QUERIES, PREFIX_HITS, PREEMPTIONS, UNANSWERED)
HISTOGRAMS = (FIRST_TOKEN, BETWEEN_TOKENS)

Buckets = dict[float, float]  # upper bound in seconds, and how many observations lie at or below it


@dataclass(frozen=True)
class Sample:
    """One reading of `/metrics`. A number that the server does not export is absent, which is not zero.

    `answers` counts requests by the kind of status that they ended in, such as "2xx".
    """

    numbers: dict[str, float]
    histograms: dict[str, Buckets] = field(default_factory=dict)
    answers: dict[str, float] = field(default_factory=dict)

    def get(self, name: str) -> float | None:
        """Return a number by its metric's name, None if the server does not export it."""
        return self.numbers.get(name)

    @property
    def busy(self) -> float | None:
        """Requests that run or wait; None if the server says neither."""
        known = [value for name in (RUNNING, WAITING) if (value := self.get(name)) is not None]
        return sum(known) if known else None


def read_sample(text: str) -> Sample:
    """Read the text of `/metrics`. Raises ValueError if it is no Prometheus text."""
    numbers: dict[str, float] = {}
    histograms: dict[str, Buckets] = {name: defaultdict(float) for name in HISTOGRAMS}
    answers: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for item in family.samples:
            if item.name in SUMMED:
                numbers[item.name] = numbers.get(item.name, 0.0) + item.value
            elif item.name == KV_CACHE:
                numbers[KV_CACHE] = max(numbers.get(KV_CACHE, 0.0), item.value)
            elif item.name == ANSWERS:
                answers[item.labels.get("status", "")] += item.value
            elif item.name.endswith("_bucket") and (name := item.name.removesuffix("_bucket")) in histograms:
                histograms[name][float(item.labels["le"])] += item.value
    return Sample(numbers, {name: dict(buckets) for name, buckets in histograms.items() if buckets}, dict(answers))


def rate(before: Sample, after: Sample, name: str, seconds: float) -> float | None:
    """Return by how much a counter grew a second; None where it is absent, or a new vLLM has begun to count."""
    old, new = before.get(name), after.get(name)
    if old is None or new is None or new < old or seconds <= 0:
        return None
    return (new - old) / seconds


def quantile(after: Sample, name: str, share: float, before: Sample | None = None) -> float | None:
    """Return a quantile of a histogram in seconds, of what came since `before`; None where nothing came.

    Linear inside a bucket, as Prometheus' `histogram_quantile`; above the last finite bound, that bound.
    """
    buckets = after.histograms.get(name, {})
    old = before.histograms.get(name, {}) if before is not None else {}
    counts = [(bound, buckets[bound] - old.get(bound, 0.0)) for bound in sorted(buckets)]
    if not counts or counts[-1][1] <= 0:
        return None
    rank = share * counts[-1][1]
    low = below = 0.0
    for bound, count in counts:
        if count >= rank:
            if math.isinf(bound):
                return low
            return low + (bound - low) * ((rank - below) / (count - below) if count > below else 1.0)
        low, below = bound, count
    return low
