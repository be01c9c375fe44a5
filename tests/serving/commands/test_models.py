"""`python -m serving models`: a row for each model that is known here, with what it does on the given machine."""

import json
import subprocess

from serving.model.shipped import MEMBERS
from tests.serving.test_pipeline import run  # noqa: F401 (a fixture)
from tests.support.serving import ROOT, clean_environment


def test_every_member_has_a_row_with_what_it_takes(run):  # noqa: F811
    rows = json.loads(run("models", "--json", "--gpus", "1x L40S").stdout)
    assert [row["model"] for row in rows] == [facts.name for facts in MEMBERS]
    by_name = {row["model"]: row for row in rows}
    assert by_name["google/gemma-3-27b-it"]["here"].startswith("fp8, 114k tokens")
    assert by_name["google/gemma-4-31B-it"]["here"].startswith("fp8, ")
    assert by_name["google/medgemma-27b-it"]["here"] is None
    assert all(row["smallest_gpu"] for row in rows)


def test_it_is_a_table_of_80_columns_with_whole_names(run):  # noqa: F811
    done = run("models", SERVE_GPUS="2x L4", COLUMNS="80")
    assert done.status == 0
    for facts in MEMBERS:
        assert facts.name in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-2])) <= 80
    assert "does not fit" in done.stdout


def test_settings_that_contradict_one_model_do_not_keep_the_others_from_the_table(run):  # noqa: F811
    done = run(
        "models", SERVE_GPUS="1x L40S", SERVE_PRECISION="fp8", SERVE_MAX_MODEL_LEN="100000", SERVE_DTYPE="float16"
    )
    assert done.status == 0, done.stderr
    assert run("models", "--gpus", "nonsense").refusal.startswith("--gpus='nonsense'")


def test_make_takes_the_model_and_the_gpus_of_its_command_line_alone():
    def printed(*arguments, **environment):

        command = ["make", "-n", "-o", "setup", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=clean_environment(**environment), capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()[-1].strip()

    asked = printed("plan", "MODEL=google/gemma-4-31b-it", "GPUS=1x L40S")
    assert asked.endswith("-m serving plan --model 'google/gemma-4-31b-it' --gpus '1x L40S'")
    assert printed("plan", MODEL="something", GPUS="else").endswith("-m serving plan")
    assert printed("models", "GPUS=1x L4").endswith("-m serving models --gpus '1x L4'")
