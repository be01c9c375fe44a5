"""The parts by themselves, where a whole command would hide the detail."""

from __future__ import annotations

from string import ascii_letters, digits

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from deployment import rest_api as runpod_api
from deployment.answers import GpuType
from deployment.masking import MASK, Redactor, looks_secret, shown
from deployment.pools import live_pools
from deployment.settings import DeploySettings
from deployment.spec import HEALTH_PORT, HTTP_PORT, Change, compare
from serving.hardware.rented import POOLS
from tests.deployment.fake_bodies import GPUS, gpu_type
from tests.deployment.fake_calls import KEY
from tests.deployment.fake_runpod import Failure
from worker.settings import WorkerSettings

# Prices per second as RunPod publishes them, and the column of prices per hour beside them.
PUBLISHED = {
    "AMPERE_24": (0.00019, 0.68), "ADA_24": (0.00031, 1.12), "AMPERE_48": (0.00034, 1.22), "ADA_48_PRO": (0.00053, 1.91),
    "AMPERE_80": (0.00076, 2.74), "ADA_80_PRO": (0.00116, 4.18), "BLACKWELL_96": (0.00111, 4.00),
    "HOPPER_141": (0.00155, 5.58), "BLACKWELL_180": (0.00240, 8.64),
}  # fmt: skip


def test_the_shipped_prices_are_the_published_ones():
    shipped = {pool.id: pool.price for pool in POOLS if pool.price is not None}

    assert shipped == {pool: pytest.approx(second * 3600, abs=0.005) for pool, (second, _) in PUBLISHED.items()}
    assert {pool: round(price, 2) for pool, price in shipped.items()} == {
        pool: hour for pool, (_, hour) in PUBLISHED.items()
    }


def test_the_live_catalogue_wins_over_the_shipped_table():
    new = gpu_type("NVIDIA RTX 5880 Ada Generation", "ADA_48_PRO", 48, 1.90)
    pools = {
        pool.id: pool
        for pool in live_pools([GpuType.model_validate(gpu) for gpu in (*(gpu_type(*gpu) for gpu in GPUS), new)])
    }

    assert pools["ADA_48_PRO"].price == 1.90
    assert "NVIDIA RTX 5880 Ada Generation" in [card.id for card in pools["ADA_48_PRO"].cards]
    assert pools["ADA_48_PRO"].smallest(2).hardware(2).gpus[0].compute_capability == (8, 9)
    assert all("RTX 3080" not in card.id for pool in pools.values() for card in pool.cards)


def test_the_ports_are_the_worker_s():
    assert WorkerSettings.model_fields["port"].default == HTTP_PORT
    assert WorkerSettings.model_fields["port_health"].default == HEALTH_PORT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "hf_abcdefgh"),
        ("SERVE_API_KEY", "x"),
        ("WORKER_S3_SECRET", "x"),
        ("DB_PASSWORD", "x"),
        ("SERVE_EXTRA_ARGS", "--api-key sk"),
        ("SERVE_MODEL", "hf_abcdefgh123"),
        ("PROXY", "http://me:pass@host"),
    ],
)
def test_what_looks_secret_is_masked(name, value):
    assert looks_secret(name, value)
    assert shown(name, value) == MASK


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVE_MODEL", "google/gemma-3-27b-it"),
        ("SERVE_MAX_NUM_BATCHED_TOKENS", "2048"),
        ("HF_TOKEN", "{{ RUNPOD_SECRET_hf_token }}"),
    ],
)
def test_a_plain_setting_and_a_reference_are_shown(name, value):
    assert shown(name, value) == value


@given(st.text(ascii_letters, min_size=6), st.text(digits), st.text(digits))
def test_a_known_secret_never_passes(secret, before, after):
    redact = Redactor([secret])

    assert redact(before + secret + after) == before + MASK + after
    assert secret not in repr(redact)


def test_a_changed_secret_is_a_change_that_shows_neither():
    desired = {"env": {"HF_TOKEN": "hf_new_value"}, "gpu": {}}
    live = {"env": {"HF_TOKEN": "hf_old_value"}, "gpu": {}}

    assert compare(desired, live) == [Change("env.HF_TOKEN", MASK, f"{MASK} (another value)")]


def test_settings_keep_the_key_out_of_their_repr():
    assert "rpa_secret" not in repr(DeploySettings(api_key=SecretStr("rpa_secret")))


def test_a_create_that_may_still_be_worked_on_is_not_repeated(runpod, monkeypatch):
    monkeypatch.setattr(runpod_api, "TIMEOUT", httpx2.Timeout(0.3))
    runpod.failures.append(Failure("POST", "/serverless", delay=1.0, carried_out=True))
    body = {
        "name": "gemma",
        "type": "QUEUE",
        "image": "image:1",
        "gpu": {"pools": ["ADA_24"]},
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    }
    with runpod_api.RunpodApi(runpod.url, KEY, Redactor(), pause=0.3) as api:
        assert api.create_endpoint(body).id == "ep1"
    assert len(runpod.calls("POST", "/serverless")) == 1


def test_an_address_without_a_path_is_that_of_version_2(runpod):
    with runpod_api.RunpodApi(runpod.root, KEY, Redactor()) as api:
        assert api.find_endpoint("gemma") is None
