import pytest

from client.variables import misspelt
from serving.errors import ConfigurationError
from serving.settings import ServeSettings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    import os

    for name in os.environ:
        if name.startswith(("SERVE_", "LLM_", "HF_TOKEN", "VLLM_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("SERVE_PORT", "abc", "a port number, 1 to 65535"),
        ("SERVE_PORT", "70000", "a port number, 1 to 65535"),
        ("SERVE_MAX_MODEL_LEN", "0", "auto or a number of tokens, 1 or more"),
        ("SERVE_TENSOR_PARALLEL_SIZE", "many", "auto or a number of GPUs, 1 or more"),
        ("SERVE_GPU_MEMORY_UTILIZATION", "1.5", "a share, more than 0 and at most 1"),
        ("SERVE_DTYPE", "int3", "auto, bfloat16, float32 or float16"),
        ("SERVE_TOOLS", "perhaps", "0 or 1"),
        ("SERVE_EXTRA_ARGS", "--a 'b", "arguments of `vllm serve`, quoted as in a shell"),
        ("SERVE_STARTUP_TIMEOUT", "-1", "a number of seconds"),
        ("SERVE_STARTUP_TIMEOUT", "inf", "a number of seconds"),
        ("SERVE_HOST", "not a host", "an address to listen on"),
        ("SERVE_KV_CACHE_SPACE_GIB", "nan", "a size in GiB, more than 0"),
    ],
)
def test_a_bad_value_is_one_sentence_with_the_variable_the_value_and_what_is_allowed(monkeypatch, name, value, allowed):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        ServeSettings.load()
    assert str(caught.value) == f"{name}={value!r} is not allowed: it must be {allowed}."
    assert caught.value.exit_status == 2


def test_a_bad_value_is_blamed_on_the_variable_that_holds_it(monkeypatch):
    monkeypatch.setenv("LLM_MODEL", "two words")
    with pytest.raises(ConfigurationError, match=r"^LLM_MODEL='two words' is not allowed"):
        ServeSettings.load()


def test_a_bad_secret_is_not_quoted(monkeypatch):
    monkeypatch.setenv("SERVE_API_KEY", "hush hush")
    with pytest.raises(ConfigurationError, match="SERVE_API_KEY") as caught:
        ServeSettings.load()
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_secret_in_the_repr(monkeypatch):
    monkeypatch.setenv("LLM_API_KEY", "hush-1")
    monkeypatch.setenv("HF_TOKEN", "hush-2")
    settings = ServeSettings.load()
    assert settings.api_key.get_secret_value() == "hush-1"
    assert settings.hf_token.get_secret_value() == "hush-2"
    assert "hush" not in repr(settings) + str(settings) + str(settings.model_dump())


def test_one_env_file_drives_both_sides(tmp_path):
    env = tmp_path / ".env"
    env.write_text("LLM_BASE_URL=http://localhost:9001/v1\nLLM_MODEL=mine\nLLM_API_KEY=k\nSERVE_MAX_NUM_SEQS=7\n")
    settings = ServeSettings.load(env)
    assert (settings.port, settings.served_model_name, settings.max_num_seqs) == (9001, "mine", 7)
    assert settings.api_key.get_secret_value() == "k"


def test_the_servers_own_variables_win_over_the_clients(monkeypatch):
    monkeypatch.setenv("LLM_BASE_URL", "http://127.0.0.1:9001/v1")
    monkeypatch.setenv("LLM_MODEL", "mine")
    monkeypatch.setenv("LLM_API_KEY", "k")
    monkeypatch.setenv("SERVE_PORT", "9002")
    monkeypatch.setenv("SERVE_SERVED_MODEL_NAME", "ours")
    monkeypatch.setenv("SERVE_API_KEY", "s")
    settings = ServeSettings.load()
    assert (settings.port, settings.served_model_name, settings.api_key.get_secret_value()) == (9002, "ours", "s")


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://localhost:9001/v1", 9001),
        ("http://127.0.0.1/v1", 80),
        ("http://[::1]:9001/v1", 9001),
        ("https://api.example.com:9001/v1", 8000),
        ("http://10.0.0.5:9001/v1", 8000),
        ("nonsense", 8000),
        ("http://[::1", 8000),
        ("", 8000),
    ],
)
def test_the_port_is_that_of_a_loopback_base_url(monkeypatch, url, port):
    monkeypatch.setenv("LLM_BASE_URL", url)
    assert ServeSettings.load().port == port


def test_the_clients_placeholder_key_is_no_key(monkeypatch):
    monkeypatch.setenv("LLM_API_KEY", "EMPTY")
    assert ServeSettings.load().api_key is None


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    monkeypatch.setenv("SERVE_PORT", "")
    monkeypatch.setenv("SERVE_MODEL", "")
    settings = ServeSettings.load()
    assert settings.port == 8000
    assert settings.model is None


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"VLLM_API_KEY": "v"}, "v"),
        ({"VLLM_API_KEY": "v", "SERVE_API_KEY": "s"}, "s"),
        ({"VLLM_API_KEY": "v", "LLM_API_KEY": "l"}, "v"),
        ({"VLLM_API_KEY": "", "LLM_API_KEY": "l"}, "l"),
    ],
)
def test_vllms_own_key_is_the_servers(monkeypatch, given, key):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert ServeSettings.load().api_key.get_secret_value() == key


def test_hosts_for_images_are_names(monkeypatch):
    monkeypatch.setenv("SERVE_MEDIA_DOMAINS", "Images.example.org, 10.0.0.5")
    assert ServeSettings.load().media_domains == ("images.example.org", "10.0.0.5")
    monkeypatch.setenv("SERVE_MEDIA_DOMAINS", "https://images.example.org")
    with pytest.raises(ConfigurationError, match="SERVE_MEDIA_DOMAINS"):
        ServeSettings.load()


def test_extra_arguments_are_read_as_a_shell_would(monkeypatch):
    monkeypatch.setenv("SERVE_EXTRA_ARGS", """--a 'b c' --d='{"e": 1}'""")
    assert ServeSettings.load().extra_args == ("--a", "b c", '--d={"e": 1}')


def test_a_misspelt_variable_is_said(monkeypatch, caplog):
    monkeypatch.setenv("SERVE_MAX_MODEL_LENGTH", "1")
    ServeSettings.load()
    assert "did you mean SERVE_MAX_MODEL_LEN?" in caplog.text
    assert misspelt(["PATH", "SERVE_PORT", "serve_port", "LLM_MODEL", "VLLM_CPU_KVCACHE_SPACE"]) == []


@pytest.mark.parametrize("given", [None, "a-key"])
def test_beside_a_file_of_keys_there_is_always_one_to_ask_with(monkeypatch, tmp_path, given):
    monkeypatch.setenv("SERVE_API_KEYS_FILE", str(tmp_path / "keys"))
    if given:
        monkeypatch.setenv("SERVE_API_KEY", given)
    first, second = (ServeSettings.load(tmp_path / "none") for _ in range(2))
    assert first.own_key is (given is None)
    assert (first.api_key.get_secret_value() == second.api_key.get_secret_value()) is (given is not None)
