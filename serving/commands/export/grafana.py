"""A dashboard for Grafana over what Prometheus has read of the servers (`prometheus.py`).

Source: grafana.com/docs, "Dashboard JSON model". Import it under Dashboards, New, Import.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from serving.commands.export.deployment import NAME
from serving.engine import metrics

if TYPE_CHECKING:
    import argparse

SOURCE = {"type": "prometheus", "uid": "${source}"}
CHOSEN = '{instance=~"$instance"}'
WIDTH, HEIGHT = 12, 8


def grafana(_args: argparse.Namespace) -> str:
    """Return the dashboard."""

    def total(name: str) -> str:
        return f"sum({name}{CHOSEN})"

    def a_second(name: str) -> str:
        return f"sum(rate({name}{CHOSEN}[$__rate_interval]))"

    def spread(name: str) -> dict[str, str]:
        buckets = f"sum by (le) (rate({name}_bucket{CHOSEN}[$__rate_interval]))"
        return {said: f"histogram_quantile({share}, {buckets})" for said, share in (("median", 0.5), ("95th", 0.95))}

    hits = f"{a_second(metrics.PREFIX_HITS)} / {a_second(metrics.PREFIX_QUERIES)}"
    panels = [
        ("Requests", "short", {"running": total(metrics.RUNNING), "waiting": total(metrics.WAITING)}),
        (
            "Tokens a second",
            "short",
            {"out": a_second(metrics.GENERATED_TOKENS), "in": a_second(metrics.PROMPT_TOKENS)},
        ),
        ("First token", "s", spread(metrics.FIRST_TOKEN)),
        ("Between two tokens", "s", spread(metrics.BETWEEN_TOKENS)),
        ("KV cache in use", "percentunit", {"{{instance}}": f"max by (instance) ({metrics.KV_CACHE}{CHOSEN})"}),
        ("Prefix cache hits", "percentunit", {"hits": hits}),
        ("Preemptions a second", "short", {"preemptions": a_second(metrics.PREEMPTIONS)}),
    ]
    dashboard = {
        "uid": NAME,
        "title": NAME,
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [_panel(number, *panel) for number, panel in enumerate(panels)],
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _variables() -> list[dict[str, Any]]:
    instances = f"label_values({metrics.RUNNING}, instance)"
    return [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "instance",
            "label": "Server",
            "type": "query",
            "datasource": SOURCE,
            "definition": instances,
            "query": {"query": instances, "refId": "instances"},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _panel(number: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    shares = {"min": 0, "max": 1} if unit == "percentunit" else {"min": 0}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": number % 2 * WIDTH, "y": number // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, **shares, "custom": {"fillOpacity": 8}}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(queries.items())
        ],
    }
