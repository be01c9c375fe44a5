"""What the kit finds of Hugging Face's side of a machine is what Hugging Face's own library finds there."""

import json
import os
import random
import re
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from serving.model.hub_cache import environment, find_hub, repository
from serving.model.revisions import REVISIONS, revision_of
from serving.settings import ServeSettings
from tests.support.serving import ROOT

ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
SCRIPT = Path(__file__).parents[1] / "vllm_side" / "inside" / "hub_in_engine.py"
NAMES = (
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN_PATH", "HF_ENDPOINT",
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
)  # fmt: skip
VALUES = {
    "HF_ENDPOINT": ("https://mirror.example/", "https://mirror.example"),
    "HF_HUB_OFFLINE": ("1", "0", "yes", "True", "on", "no"),
    "TRANSFORMERS_OFFLINE": ("1", "0"),
    "HF_TOKEN": ("hf_one",),
    "HUGGING_FACE_HUB_TOKEN": ("hf_two",),
}


def places(home):
    """Return folders as people write them, some of which hold a token."""
    (home / "logged-in" / "huggingface").mkdir(parents=True, exist_ok=True)
    (home / "logged-in" / "token").write_text("hf_stored\n")
    (home / "logged-in" / "huggingface" / "token").write_text("hf_below\n")
    (home / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_default\n")
    return (f"{home}/logged-in", "~/logged-in", "$HOME/logged-in", f"{home}/elsewhere")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found_here(settings):
    hub = find_hub(settings.engine_variables)
    token = settings.hf_token.get_secret_value() if settings.hf_token else hub.stored_token
    return [str(hub.cache), hub.endpoint, str(hub.token_path), hub.offline, token]


@pytest.mark.engine
def test_the_library_in_the_started_vllm_finds_what_the_kit_finds(machine):
    """For any variables, in the environment and in `.env`, empty ones among them."""
    chance, somewhere = random.Random(11), places(machine)
    environments, ours = [], []
    for _ in range(200):
        shell, file = {}, {}
        for name in chance.sample(NAMES, chance.randint(0, 6)):
            for variables in chance.choice(((shell,), (file,), (shell, file))):
                below = "/token" if name == "HF_TOKEN_PATH" else ""
                values = VALUES.get(name) or [f"{place}{below}" for place in somewhere]
                variables[name] = chance.choice(("", *values, *values))
        (machine / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in file.items()))
        with pytest.MonkeyPatch.context() as patch:
            for name, value in shell.items():
                patch.setenv(name, value)
            settings = ServeSettings.load()
            ours.append(found_here(settings))
            token = {"HF_TOKEN": settings.hf_token.get_secret_value()} if settings.hf_token else {}
            environments.append({**os.environ, **environment(settings.engine_variables), **token})
    done = subprocess.run(
        [str(ENGINE_PYTHON), str(SCRIPT)], input=json.dumps(environments), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout)
    assert [pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]] == []


def test_a_token_is_found_where_the_cache_is_elsewhere(machine, monkeypatch):
    places(machine)
    monkeypatch.setenv("HF_HUB_CACHE", str(machine / "elsewhere"))
    assert find_hub().stored_token == "hf_default"


def test_the_older_name_of_the_token_is_one_too(machine):
    (machine / ".env").write_text("HUGGING_FACE_HUB_TOKEN=hf_old\n")
    settings = ServeSettings.load()
    assert settings.hf_token == SecretStr("hf_old")
    assert settings.engine_variables == {}


def test_no_token_is_shown(machine):
    places(machine)
    (machine / ".env").write_text("HF_HOME=~/logged-in\nHF_OIDC_ID_TOKEN=hf_secret\n")
    settings = ServeSettings.load()
    hub = find_hub(settings.engine_variables)
    assert hub.stored_token == "hf_stored"
    assert "hf_s" not in repr(hub) + repr(settings) + str(settings.model_dump())


def downloaded(cache, name, commit, branch=None):
    folder = repository(name, cache)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (snapshot / file).write_text("{}")
    if branch is not None:
        (folder / "refs").mkdir()
        (folder / "refs" / branch).write_text(commit)


def test_a_known_checkpoint_is_served_at_the_commit_that_is_known(tmp_path):
    known = REVISIONS["google/gemma-3-4b-it"]
    assert revision_of("google/gemma-3-4b-it", tmp_path) == known
    assert revision_of("owner/unknown", tmp_path) is None
    downloaded(tmp_path, "google/gemma-3-4b-it", known)
    assert revision_of("google/gemma-3-4b-it", tmp_path) == known


@pytest.mark.parametrize(("commit", "served"), [("c" * 40, None), (REVISIONS["google/gemma-3-4b-it"],) * 2])
def test_what_the_cache_holds_as_main_is_served(tmp_path, commit, served):
    downloaded(tmp_path, "google/gemma-3-4b-it", commit, "main")
    assert revision_of("google/gemma-3-4b-it", tmp_path) == served
    assert revision_of("google/gemma-3-4b-it") == REVISIONS["google/gemma-3-4b-it"]  # on another machine


def test_revisions_are_whole_commits():
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in REVISIONS.values())
