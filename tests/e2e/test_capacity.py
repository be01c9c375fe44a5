"""The planned KV capacity against the tokens that the real engine logs."""

import json
import re
import subprocess
import sys

import pytest

from serving.engine.vllm_log import read_capacity
from tests.support.serving import ROOT, Serve, clean_environment

pytestmark = pytest.mark.engine

SMOLLM, GEMMA = "tryout-smollm2-135m", "tryout-gemma-3-270m"


def planned(model, **settings):
    done = subprocess.run(
        [sys.executable, "-m", "serving", "plan", "--model", model, "--json"],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def agrees(plan, server):
    logged = read_capacity(server.log.read_text().splitlines())
    assert logged is not None
    assert logged.max_model_len == plan["max_model_len"]
    assert logged.tokens == pytest.approx(plan["kv_cache_tokens"], rel=0.01)
    assert not any(re.search(r"tokens, \d+% (more|less) than", line) for line in server.output)


def test_a_plain_model_holds_the_planned_tokens(smollm):
    agrees(planned(SMOLLM), smollm)


def test_a_hybrid_model_holds_the_planned_tokens(gemma_270m):
    agrees(planned(GEMMA), gemma_270m)


@pytest.mark.slow
@pytest.mark.parametrize("model", [SMOLLM, GEMMA])
@pytest.mark.parametrize("length", ["2048", "6000"])
@pytest.mark.parametrize("gib", ["1", "2"])
def test_it_holds_the_planned_tokens_at_other_lengths_and_sizes(model, length, gib, tmp_path):
    settings = {"SERVE_MAX_MODEL_LEN": length, "SERVE_KV_CACHE_SPACE_GIB": gib}
    log = tmp_path / "vllm.log"
    server = Serve({"SERVE_MODEL": model, "SERVE_LOG_FILE": str(log)} | settings)
    server.log = log
    try:
        server.wait_for("  ask ")
        agrees(planned(model, **settings), server)
    finally:
        server.close()
