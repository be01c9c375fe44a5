"""How the cache of converted models behaves, with a small script in the converter's place."""

import stat
import threading

import pytest

from serving.errors import EngineFailed, Refused
from serving.model import tryout
from serving.model.tryout import DEFAULT_TRYOUT, TRYOUT_MODELS, checkpoint

MODEL = TRYOUT_MODELS[DEFAULT_TRYOUT]


@pytest.fixture
def make_python(tmp_path):
    """Write a stand-in for the engine's interpreter; its last argument is the folder to fill."""

    def make(body):
        program = tmp_path / "python"
        program.write_text(f'#!/bin/bash\nout="${{@: -1}}"\necho run >> {tmp_path}/runs\n{body}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return program

    return make


def said():
    lines = []
    return lines, lines.append


def test_a_model_is_converted_once(tmp_path, make_python):
    python = make_python('echo {} > "$out/config.json"')
    lines, say = said()
    first = checkpoint(MODEL, tmp_path / "cache", python, say)
    second = checkpoint(MODEL, tmp_path / "cache", python, say)
    assert first == second
    assert (first / "config.json").is_file()
    assert (tmp_path / "runs").read_text() == "run\n"
    assert len(lines) == 1
    assert "converting" in lines[0]


def test_the_steps_of_a_conversion_are_told_and_its_bars_now_and_then(tmp_path, make_python, monkeypatch):
    monkeypatch.setattr(tryout, "SILENCE_S", 0.0)
    bar = r"printf 'Converting tensors:  40%%|####      | 4/10\rConverting tensors: 100%%|##########| 10/10\n' >&2"
    python = make_python(f'echo "step: reading the weights"; {bar}; echo warning; echo {{}} > "$out/config.json"')
    lines, say = said()
    checkpoint(MODEL, tmp_path / "cache", python, say)
    assert lines[1:] == ["  reading the weights", "  40 %", "  100 %"]


def test_two_at_once_convert_once(tmp_path, make_python):
    python = make_python('sleep 0.5; echo {} > "$out/config.json"')
    threads = [
        threading.Thread(target=checkpoint, args=(MODEL, tmp_path / "cache", python, lambda line: None))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_failed_conversion_leaves_nothing_behind_and_says_why(tmp_path, make_python):
    python = make_python('echo {} > "$out/config.json"; echo "out of luck" >&2; exit 3')
    with pytest.raises(EngineFailed) as caught:
        checkpoint(MODEL, tmp_path / "cache", python, lambda line: None)
    assert caught.value.tail == ("out of luck",)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_without_an_engine_it_says_how_to_get_one(tmp_path):
    with pytest.raises(Refused, match="make setup-engine"):
        checkpoint(MODEL, tmp_path, tmp_path / "absent", lambda line: None)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, make_python):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="SERVE_CACHE_DIR"):
        checkpoint(MODEL, tmp_path / "file" / "cache", make_python("true"), lambda line: None)
