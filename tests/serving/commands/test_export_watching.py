"""What is exported for Prometheus and Grafana names what the real engine exports, and raises what it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.commands.export.prometheus import RULES_FILE
from tests.serving.commands.test_export import KEY, export

RECORDED = (Path(__file__).parents[1] / "engine" / "metrics-0.32.txt").read_text()
HERE = 'job="gemma-vllm-kit",instance="a:8000"'


@pytest.fixture
def promtool():
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("NOT CHECKED BY PROMETHEUS: there is no promtool here (Debian, Ubuntu: apt-get install prometheus)")

    def run(*words, cwd=None):
        done = subprocess.run([found, *words], cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def queries() -> list[str]:
    """Return every query of the dashboard and of the rules."""
    dashboard = json.loads(export("grafana"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    (group,) = yaml.safe_load(export("prometheus", "--rules"))["groups"]
    return found + [rule["expr"] for rule in group["rules"]]


def names(text: str) -> set[str]:
    return set(re.findall(r"vllm:\w+", text))


def exported(text: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_every_query_names_what_the_engine_was_seen_to_export():
    asked = queries()
    assert len(asked) == 15
    for query in asked:
        assert names(query) or "up{" in query
        assert names(query) <= exported(RECORDED), query


@pytest.mark.engine
def test_every_query_names_what_the_real_engine_exports(smollm):
    request = urllib.request.Request(f"http://127.0.0.1:{smollm.port}/metrics")
    request.add_header("Authorization", f"Bearer {smollm.key}")
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    for query in queries():
        assert names(query) <= exported(text), query


def test_prometheus_accepts_the_configuration_and_the_rules(tmp_path, promtool):
    config, alerts = tmp_path / "prometheus.yml", tmp_path / RULES_FILE
    urls = ("--url", "http://10.0.0.5:8000", "--url", "https://gpu.example:443/")
    export("prometheus", *urls, "--output", str(config), SERVE_API_KEY="")
    export("prometheus", "--rules", "--output", str(alerts))
    promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    promtool("check", "rules", "--lint-fatal", RULES_FILE, cwd=tmp_path)
    jobs = yaml.safe_load(config.read_text())["scrape_configs"]
    assert [job["static_configs"][0]["targets"] for job in jobs] == [["10.0.0.5:8000"], ["gpu.example:443"]]
    assert all("authorization" not in job for job in jobs)


def test_the_dashboards_queries_are_prometheus_own_language(tmp_path, promtool):
    recorded = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries())
    ]
    (tmp_path / "as.rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", "as.rules.yml", cwd=tmp_path)


def test_a_key_is_named_by_its_file_and_never_written():
    (job,) = yaml.safe_load(export("prometheus"))["scrape_configs"]
    assert job["authorization"] == {"credentials_file": "/etc/gemma-vllm-kit/key"}
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    assert KEY not in export("prometheus", "--rules") + export("grafana")


def test_each_alert_is_raised_for_its_cause_and_not_by_a_busy_server(tmp_path, promtool):
    alerts = tmp_path / RULES_FILE
    export("prometheus", "--rules", "--output", str(alerts))
    busy = {
        "up": "1x40",
        "vllm:num_requests_running": "8x40",
        "vllm:num_requests_waiting": "0 3 0 5 2 0 1 4 0 2 0 3 0 5 2 0 1 4 0 2 0 3 0 5 2 0 1 4 0 2",
        "vllm:kv_cache_usage_perc": "0.9x40",
        "vllm:generation_tokens_total": "0+9000x40",
        "vllm:prompt_tokens_total": "0+3000x40",
    }
    causes = {
        None: {},
        "ServerDown": {"up": "0x40"},
        "NoTokens": {"vllm:generation_tokens_total": "500x40", "vllm:prompt_tokens_total": "500x40"},
        "KVCacheFull": {"vllm:kv_cache_usage_perc": "0.99x40"},
        "QueueGrowing": {"vllm:num_requests_waiting": "1+2x40"},
        "idle": {
            "vllm:num_requests_running": "0x40",
            "vllm:generation_tokens_total": "500x40",
            "vllm:prompt_tokens_total": "500x40",
        },
        "a long prompt": {"vllm:generation_tokens_total": "500x40"},
    }
    every = ("ServerDown", "NoTokens", "KVCacheFull", "QueueGrowing")
    texts = {rule["alert"]: rule for rule in yaml.safe_load(alerts.read_text())["groups"][0]["rules"]}
    assert set(texts) == set(every)
    tests = []
    for cause, changed in causes.items():
        series = [{"series": f"{name}{{{HERE}}}", "values": values} for name, values in (busy | changed).items()]
        raised = [
            {
                "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
                "eval_time": "30m",
                "exp_samples": [{"labels": "{}", "value": int(name == cause)}],
            }
            for name in every
        ]
        tests.append({"interval": "1m", "input_series": series, "promql_expr_test": raised})
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": [RULES_FILE], "tests": tests}))
    promtool("test", "rules", "tests.yml", cwd=tmp_path)


@pytest.mark.parametrize("url", ["10.0.0.5:8000", "ftp://a", "http://a/v1", "http://me:secret@a"])
def test_an_address_that_is_none_is_a_sentence(url):
    assert "it must be like http://10.0.0.5:8000" in export("prometheus", "--url", url, status=2)
