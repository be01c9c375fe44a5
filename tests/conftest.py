"""Engines that tests share: one start of each model serves all who can share it."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.support.serving import Serve

# How long an example takes says something about the machine, which is shared, and nothing about the code. A change is
# judged by examples that stay the same (CI is set); new ones are looked for in every other run.
settings.register_profile(
    "kit",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("kit")

# A shell starts what runs in its background with SIGINT ignored, which every process below would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

API_KEY = "an-end-to-end-key"


@pytest.fixture(scope="session")
def smollm(tmp_path_factory):
    """`make serve` as on a machine without a GPU and without any setting but a key; the log is in `server.log`."""
    log = tmp_path_factory.mktemp("smollm") / "vllm.log"
    server = Serve({"SERVE_API_KEY": API_KEY, "SERVE_LOG_FILE": str(log)})
    try:
        server.wait_for("  ask ")
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def gemma_270m(tmp_path_factory):
    """Gemma 3 270M, which has Gemma 3's architecture, served with tools on; the log is in `server.log`."""
    log = tmp_path_factory.mktemp("gemma") / "vllm.log"
    server = Serve({"SERVE_MODEL": "tryout-gemma-3-270m", "SERVE_LOG_FILE": str(log)})
    try:
        server.wait_for("  ask ")
        yield server
    finally:
        server.close()


def pytest_collection_modifyitems(items):
    """Run what is fast first; what shares an engine next to each other; what ends the shared engine last."""
    order = {"smollm": 1, "gemma_270m": 3}

    def rank(item):
        if item.get_closest_marker("engine") is None:
            return 0
        if item.get_closest_marker("ends_engine"):
            return 2
        return max((order.get(name, 0) for name in item.fixturenames), default=0) or 4

    items.sort(key=rank)
