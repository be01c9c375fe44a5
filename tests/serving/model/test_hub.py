"""A model that is not here is read from the hub, without its weights; whatever goes wrong is one sentence."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import ConfigurationError, Refused, ServingError
from serving.model import hub as hub_module
from serving.model.hub import HubReader
from serving.model.resolve import resolve
from tests.serving.model.test_model import LLAMA
from tests.support.fake_hub import TOKEN, FakeHub, safetensors
from tests.support.serving import free_port

MODEL = "acme/llama"
CONFIG = json.dumps(LLAMA).encode()
TENSORS = {"model.embed.weight": 1_050_673_152, "model.layers.0.q.weight": 15_000_000_000}
TOWER = {"vision_tower.patch.weight": 800_000_000}
INDEX = {"metadata": {"total_size": 16_060_000_000}, "weight_map": {}}


def files(**more):
    return {"config.json": CONFIG, "model.safetensors": safetensors(TENSORS)} | {
        name.replace("__", "."): raw for name, raw in more.items()
    }


@pytest.fixture
def hub():
    with FakeHub({MODEL: files()}) as hub:
        yield hub


def test_a_model_is_planned_by_name_from_its_configuration_and_heads_alone(hub, tmp_path):
    facts = resolve(MODEL, tmp_path, hub=HubReader(hub.url))
    assert facts.checkpoints[0].weight_bytes == sum(TENSORS.values())
    assert not facts.checkpoints[0].gated
    assert hub.sent < 5000
    assert {path.rpartition("/")[2] for _, path, _ in hub.asked} == {
        "config.json",
        "model.safetensors.index.json",
        "model.safetensors",
    }


def test_the_index_says_the_size_and_the_heads_what_is_outside_the_language_model():
    index = INDEX | {"weight_map": {"model.a": "model-1.safetensors", "vision_tower.b": "model-2.safetensors"}}
    more = {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-1.safetensors": safetensors(TENSORS),
        "model-2.safetensors": safetensors(TOWER | {"model.z": 10}),
    }
    with FakeHub({MODEL: {"config.json": CONFIG} | more}) as hub:
        found = HubReader(hub.url).read(MODEL)
        assert not any("model-1" in path for _, path, _ in hub.asked)
    assert (found.files.weight_bytes, found.files.outside_bytes) == (16_060_000_000, 800_000_000)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_hub_without_ranges_gives_the_same(hub, ranges):
    hub.stumble("model.safetensors", ranges=ranges)
    assert HubReader(hub.url).read(MODEL).files.weight_bytes == sum(TENSORS.values())


def test_a_gated_model_wants_the_token_and_is_known_to():
    with FakeHub({MODEL: files()}, gated=(MODEL,)) as hub:
        assert HubReader(hub.url, TOKEN).read(MODEL).gated
        with pytest.raises(Refused, match="accept its licence at") as caught:
            HubReader(hub.url).read(MODEL)
        assert "HF_TOKEN" in str(caught.value)
        with pytest.raises(Refused, match="HF_TOKEN is wrong or has expired") as caught:
            HubReader(hub.url, "hf_wrong").read(MODEL)
        assert "hf_wrong" not in str(caught.value) + repr(HubReader(hub.url, "hf_wrong"))


def test_the_token_stays_at_the_hub(hub):
    with FakeHub({MODEL: files()}) as cdn:
        address = f"{cdn.url}/{MODEL}/resolve/main/model.safetensors"
        hub.stumble("model.safetensors", status=302, headers={"Location": address})
        found = HubReader(hub.url, TOKEN).read(MODEL)
        assert found.files.weight_bytes == sum(TENSORS.values())
        assert all("Authorization" not in headers for _, _, headers in cdn.asked)
    assert any(headers.get("Authorization") == f"Bearer {TOKEN}" for _, _, headers in hub.asked)


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ({"status": 401}, Refused, "cannot be read without a token"),
        ({"status": 403}, Refused, "is gated and may not be read"),
        ({"status": 404}, ConfigurationError, "there is no such model"),
        ({"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}}, ConfigurationError, "has no config.json"),
        ({"status": 429}, Refused, "too many requests"),
        ({"status": 503}, Refused, "answers 503"),
        ({"status": 302, "headers": {"Location": "file:///etc/passwd"}}, Refused, "answers 302"),
        ({"cut": 20}, Refused, "was cut off"),
        ({"cut": 0}, Refused, "was cut off"),
        ({"headers": {"Transfer-Encoding": "chunked"}, "body": b"40\r\n{"}, Refused, "was cut off"),
        ({"body": b"<html>Sign in</html>"}, Refused, "is no JSON"),
        ({"body": b"[" * 100_000}, Refused, "is no JSON"),
        ({"body": b"[1]"}, Refused, "is no JSON object"),
        ({"body": b"{}"}, ConfigurationError, "cannot be planned"),
        ({"hang_up": True}, Refused, "cannot be read"),
    ],
    ids=str,
)
def test_what_goes_wrong_at_the_hub_is_one_sentence(hub, tmp_path, how, kind, said):
    hub.stumble("config.json", **how)
    with pytest.raises(kind, match=said) as caught:
        resolve(MODEL, tmp_path, hub=HubReader(hub.url))
    assert "\n" not in str(caught.value)
    assert MODEL in str(caught.value)


def test_a_hub_that_trickles_or_is_silent_is_given_up(hub, monkeypatch):
    monkeypatch.setattr(hub_module, "LONGEST_S", 0.1)
    monkeypatch.setattr(hub_module, "SILENT_S", 0.3)
    for slow in (0.02, 5.0):
        hub.stumble("config.json", slow=slow)
        with pytest.raises(Refused, match="cannot be read"):
            HubReader(hub.url).read(MODEL)


def test_without_a_network_or_offline_one_sentence_says_so(tmp_path):
    with pytest.raises(Refused, match="check the network, HF_ENDPOINT"):
        resolve(MODEL, tmp_path, hub=HubReader(f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(Refused, match="HF_HUB_OFFLINE forbids"):
        resolve(MODEL, tmp_path, hub=HubReader("http://127.0.0.1:1", offline=True))
    with pytest.raises(ConfigurationError, match="no model's name on Hugging Face"):
        resolve("not a name", tmp_path, hub=HubReader("http://127.0.0.1:1"))
    with pytest.raises(Refused, match="cannot be read"):
        resolve(MODEL, tmp_path, hub=HubReader("no address"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(("config.json", "model.safetensors.index.json", "model.safetensors")),
    st.one_of(
        st.fixed_dictionaries({"status": st.sampled_from((301, 400, 401, 403, 404, 416, 418, 429, 500, 502))}),
        st.fixed_dictionaries({"cut": st.integers(0, 400)}),
        st.fixed_dictionaries({"body": st.binary(max_size=64)}),
        st.fixed_dictionaries({"body": st.sampled_from((b"null", b'{"metadata": 3}', b'{"weight_map": [1]}', b'"x"'))}),
        st.just({"hang_up": True}),
        st.just({"ranges": False}),
    ),
)
def test_whatever_a_hub_does_there_are_facts_or_a_sentence(hub, tmp_path, file, how):
    hub._stumbles.clear()
    hub.stumble(file, **how)
    refused = None
    try:
        facts = resolve(MODEL, tmp_path, hub=HubReader(hub.url))
    except ServingError as error:
        refused = str(error)
    if refused is not None:
        assert file == "config.json"
        assert "\n" not in refused
        return
    assert facts.checkpoints[0].weight_bytes == pytest.approx(16.06e9, rel=0.02)
