"""The media guard inside vLLM: its own connector fetches, in the engine's environment, from a server on loopback."""

import pytest

from tests.serving.vllm_side.inside import MIDDLEWARE, run_inside


@pytest.mark.engine
def test_no_url_of_an_image_leads_into_the_machines_own_network():
    said = run_inside("fetch_in_engine.py", MIDDLEWARE)
    found = said["found"]
    allowed = {name: found.pop(name) for name in ("data:", "open.example")}
    assert allowed == dict.fromkeys(allowed, "image 2x2")
    assert said["asked_before"] == []
    # A redirect is asked for and not followed.
    assert said["asked"] == ["/picture", "/redirect"]
    assert not [(name, outcome) for name, outcome in found.items() if outcome.startswith("image")]
    # A refusal is one sentence, whatever it is that is there.
    others = ("file:///etc/passwd", "ftp://127.0.0.1/x", "rebound.example", "redirect")
    told = {name: outcome for name, outcome in found.items() if name not in others}
    assert not [(name, said) for name, said in told.items() if "no public address" not in said]
