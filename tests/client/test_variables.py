"""What a `.env` may hold, and what is said of names that mean nothing."""

import contextlib

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import ConfigurationError
from client.settings import ClientSettings
from client.variables import EnvFileError, misspelt, nearly_known, read_env_file
from serving.settings import ServeSettings

LINES = st.lists(
    st.one_of(
        st.sampled_from(
            ["A=1", "export B='x y'", "# comment", "", 'C="a\\nb"', "D='${A}'", "E=${A}", "F = 1 # c", "G="]
        ),
        st.text(alphabet="ABC=\"'#$ {}\\\n", max_size=12),
    ),
    max_size=6,
)


@pytest.fixture
def env_file(tmp_path, monkeypatch):
    for name in ("SERVE_API_KEY", "LLM_API_KEY", "LLM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".env"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(LINES)
def test_a_file_is_refused_or_read_as_python_dotenv_reads_it_without_expansion(env_file, lines):
    env_file.write_text("\n".join(lines))
    with contextlib.suppress(EnvFileError):
        expected = {
            name: value for name, value in dotenv_values(env_file, interpolate=False).items() if value is not None
        }
        assert read_env_file(env_file) == expected


@pytest.mark.parametrize("line", ["SERVE_API_KEY='secret", 'SERVE_API_KEY="secret', "SERVE_API_KEY=\"sec'ret"])
def test_a_quote_left_open_is_an_error_that_does_not_show_the_key(env_file, line):
    env_file.write_text(f"SERVE_PORT=8001\n{line}\nLLM_MODEL=x\n")
    with pytest.raises(Exception, match="line 2") as caught:
        ServeSettings.load(env_file)
    assert "secret" not in str(caught.value)
    assert type(caught.value).__module__ == "serving.errors"


@pytest.mark.parametrize("quoted", ["'a${HOME}b'", '"a${HOME}b"', "a${HOME}b"])
def test_a_dollar_in_a_key_stays_what_it_is(env_file, quoted):
    env_file.write_text(f"LLM_API_KEY={quoted}\n")
    assert ClientSettings.load(env_file).api_key.get_secret_value() == "a${HOME}b"


def test_the_environment_wins_over_the_file_under_every_name(env_file, monkeypatch):
    env_file.write_text("SERVE_KV_CACHE_SPACE_GIB=3\n")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert ServeSettings.load(env_file).kv_cache_space_gib == 2


def test_a_file_in_another_encoding_is_a_sentence(env_file):
    env_file.write_bytes("LLM_MODEL=\u00fc".encode("latin-1"))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ClientSettings.load(env_file)


def test_a_name_with_a_misspelt_prefix_is_said_where_it_stands_in_a_file_for_the_kit():
    said = nearly_known(
        ["SERV_MODEL", "SEVRE_PORT", "LLLM_MODEL", "PATH", "SERVE_X", "HF_TOKEN", "DATABASE_URL", "MODEL"]
    )
    assert said == [
        "LLLM_MODEL is not a setting and does nothing: did you mean LLM_MODEL?",
        "SERV_MODEL is not a setting and does nothing: did you mean SERVE_MODEL?",
        "SEVRE_PORT is not a setting and does nothing: did you mean SERVE_PORT?",
    ]


def test_misspelt_names_of_every_prefix_are_said_with_the_nearest():
    said = misspelt(["LLM_BASEURL", "SERVE_MODLE", "PATH", "LLM_MODEL", "VLLM_X"])
    assert said == [
        "LLM_BASEURL is not a setting and does nothing: did you mean LLM_BASE_URL?",
        "SERVE_MODLE is not a setting and does nothing: did you mean SERVE_MODEL?",
    ]


def test_the_client_says_it_too(env_file, caplog):
    env_file.write_text("LLM_TEMPRATURE=1\n")
    ClientSettings.load(env_file)
    assert "did you mean LLM_TEMPERATURE?" in caplog.text
