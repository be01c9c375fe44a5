"""What Prometheus needs to watch machines that run `make serve`: a scrape configuration, and rules that raise alerts.

The alerts are for what the watchdog and the plan know: a vLLM that stands still, a cache that is full, a queue that
grows. Sources: the configuration and the rules of prometheus.io/docs; vLLM's metrics are those of `engine.metrics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from serving.commands.export.addresses import checked
from serving.commands.export.deployment import MOUNT, NAME, as_yaml
from serving.engine import metrics
from serving.engine.command import reachable
from serving.settings import ServeSettings

if TYPE_CHECKING:
    import argparse

RULES_FILE = f"{NAME}.rules.yml"
KEY_FILE = f"{MOUNT}/key"
FULL = 0.95


def prometheus(args: argparse.Namespace) -> str:
    """Return the scrape configuration, or with `--rules` the alerts that it refers to."""
    return rules() if args.rules else scrape(args.url)


def scrape(urls: list[str]) -> str:
    """Return a configuration that reads these machines' metrics; without any, the one that the settings describe."""
    settings = ServeSettings.load()
    urls = checked(urls) or [f"http://{reachable(settings.host)}:{settings.port}"]
    jobs = []
    for scheme in ("http", "https"):
        targets = [urlsplit(url).netloc for url in urls if urlsplit(url).scheme == scheme]
        job: dict[str, Any] = {"job_name": NAME if scheme == "http" else f"{NAME}-tls", "scheme": scheme}
        if settings.api_key is not None:
            job["authorization"] = {"credentials_file": KEY_FILE}
        if targets:
            jobs.append(job | {"static_configs": [{"targets": targets}]})
    head = [
        "Prometheus (https://prometheus.io). The alerts, beside this file:",
        f"  python -m serving export prometheus --rules --output {RULES_FILE}",
    ]
    if settings.api_key is not None:
        head.append(f"The servers' key goes into {KEY_FILE} (mode 600, of Prometheus' user).")
    body = {"global": {"scrape_interval": "15s"}, "rule_files": [RULES_FILE], "scrape_configs": jobs}
    return as_yaml(tuple(head), body)


def rules() -> str:
    """Return the alerts."""
    job = f'{{job=~"{NAME}(-tls)?"}}'

    def of_each(name: str) -> str:
        return f"sum by (instance) ({name}{job})"

    def growth(name: str) -> str:
        return f"sum by (instance) (rate({name}{job}[3m]))"

    waiting = f"{of_each(metrics.WAITING)}[10m:1m]"
    alerts = [
        _alert(
            "ServerDown",
            f"up{job} == 0",
            "2m",
            "critical",
            "{{ $labels.instance }} does not answer /metrics.",
            "`make status` there says why; `make doctor` checks what a start needs.",
        ),
        _alert(
            "NoTokens",
            f"{of_each(metrics.RUNNING)} > 0 and {growth(metrics.GENERATED_TOKENS)} == 0 "
            f"and {growth(metrics.PROMPT_TOKENS)} == 0",
            "3m",
            "critical",
            "{{ $labels.instance }} runs {{ $value }} requests and has written nothing for minutes.",
            "vLLM hangs, or computes one very long prompt: look at its log, and start it again.",
        ),
        _alert(
            "KVCacheFull",
            f"max by (instance) ({metrics.KV_CACHE}{job}) > {FULL}",
            "5m",
            "warning",
            "{{ $labels.instance }} has {{ $value | humanizePercentage }} of its KV cache in use.",
            "More requests wait or are preempted: `make plan` says how many fit; a shorter SERVE_MAX_MODEL_LEN, a "
            "lower SERVE_PRECISION or another machine makes room.",
        ),
        _alert(
            "QueueGrowing",
            f"min_over_time({waiting}) > 0 and deriv({waiting}) > 0",
            "5m",
            "warning",
            "{{ $labels.instance }} has more and more requests waiting.",
            "More arrive than it answers: `make bench` says how many users it carries.",
        ),
    ]
    head = ("Alerts for Prometheus. Check them with: promtool check rules THIS_FILE",)
    return as_yaml(head, {"groups": [{"name": NAME, "rules": alerts}]})


def _alert(name: str, expression: str, lasting: str, severity: str, summary: str, description: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description},
    }
