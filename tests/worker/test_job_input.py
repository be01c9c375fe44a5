"""A job's input is read into one request for a route on the list, or refused with a status."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.job_error import JobError
from worker.job_input import BODY_LIMIT, ROUTES, read_job

KEYS = ["openai_route", "openai_input", "route", "body", "method", "messages", "prompt", "sampling_params", "stream"]
MODEL = "the-model"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def body_of(request):
    return json.loads(request.body)


def test_a_pass_through_is_sent_as_it_is():
    body = {"model": "another", "messages": [], "made_up": [1, None], "stream": True}
    request = read_job({"openai_route": "/v1/chat/completions", "openai_input": body}, MODEL)
    assert (request.method, request.route, request.stream) == ("POST", "/v1/chat/completions", True)
    assert body_of(request) == body


@pytest.mark.parametrize("job", [{}, {"openai_input": None}, {"openai_input": {}}])
def test_the_list_of_models_needs_no_body(job):
    request = read_job({"openai_route": "/v1/models"} | job, MODEL)
    assert (request.method, request.body) == ("GET", None)


@pytest.mark.parametrize("job", [{}, {"openai_input": None}, {"openai_input": {}}])
def test_an_empty_body_is_vllms_to_judge(job):
    request = read_job({"openai_route": "/v1/chat/completions"} | job, MODEL)
    assert (request.method, body_of(request)) == ("POST", {"model": MODEL})


@pytest.mark.parametrize("missing", [{}, {"model": None}, {"model": ""}])
def test_a_missing_model_is_filled_in(missing):
    job = {"route": "/tokenize", "body": {"prompt": "x"} | missing}
    assert body_of(read_job(job, MODEL))["model"] == MODEL


def test_the_shorthand_becomes_an_openai_request():
    job = {"messages": [{"role": "user"}], "sampling_params": {"temperature": 0, "max_tokens": 5}, "stream": True}
    request = read_job(job, MODEL)
    assert request.route == "/v1/chat/completions"
    assert request.stream
    wanted = {"model": MODEL, "messages": [{"role": "user"}], "temperature": 0, "max_tokens": 5, "stream": True}
    assert body_of(request) == wanted
    assert read_job({"prompt": "x"}, MODEL).route == "/v1/completions"


@pytest.mark.parametrize("job", [{}, "text", "", 7, 0, None, True, [], [1], {"unknown": 1}])
def test_an_input_that_says_nothing_is_refused(job):
    with pytest.raises(JobError) as caught:
        read_job(job, MODEL)
    assert caught.value.code == 400


@pytest.mark.parametrize(
    "route",
    [
        "/metrics/",
        "/v1/load_lora_adapter",
        "@other.host/v1/models",
        "//other.host/v1/models",
        "http://other.host/v1/models",
        "/../../v1/models",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/%76%31/models",
        "\\v1\\models",
        "/v1/models?x=1",
        "/v1/models#x",
        "/v1/models/",
        "/v1/models\r\nHost: other.host",
        "v1/models",
        "/V1/MODELS",
        " /v1/models",
        7,
        ["/v1/models"],
        {"/v1/models": 1},
    ],
)
@pytest.mark.parametrize("key", ["route", "openai_route"])
def test_a_route_that_is_not_on_the_list_is_refused(key, route):
    with pytest.raises(JobError) as caught:
        read_job({key: route}, MODEL)
    assert caught.value.code == 404
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("method", ["GET", "DELETE", "put", 1])
def test_another_method_is_refused(method):
    with pytest.raises(JobError) as caught:
        read_job({"route": "/v1/completions", "body": {}, "method": method}, MODEL)
    assert caught.value.code == 405


@pytest.mark.parametrize("body", ["text", 7, [1], True, 0, ""])
def test_a_body_that_is_no_object_is_refused(body):
    for job in ({"route": "/v1/completions", "body": body}, {"openai_route": "/v1/responses", "openai_input": body}):
        with pytest.raises(JobError) as caught:
            read_job(job, MODEL)
        assert caught.value.code == 400


def test_a_body_over_the_limit_is_refused_before_it_is_sent():
    with pytest.raises(JobError) as caught:
        read_job({"route": "/v1/completions", "body": {"prompt": "x" * BODY_LIMIT}}, MODEL)
    assert caught.value.code == 413


@pytest.mark.parametrize(
    "job",
    [
        {"prompt": "x", "sampling_params": "hot"},
        {"prompt": "half of a pair: \ud800"},
    ],
)
def test_what_cannot_be_one_request_is_refused(job):
    with pytest.raises(JobError) as caught:
        read_job(job, MODEL)
    assert caught.value.code == 400


@given(
    st.dictionaries(st.sampled_from(["openai_route", "route", "openai_input", "body", "method", "prompt"]), json_values)
    | json_values
)
def test_whatever_the_input_it_is_a_request_on_the_list_or_a_client_error(job):
    refusal = None
    try:
        request = read_job(job, MODEL)
    except JobError as error:
        refusal = error
    if refusal is None:
        assert ROUTES[request.route] == request.method
    else:
        assert 400 <= refusal.code < 500
        assert len(refusal.message) < 500
        assert json.loads(refusal.as_output()["error"])["error"]["code"] == refusal.code


# What RunPod's own vLLM worker takes, ours takes.
OFFICIAL = [
    ({"openai_input": {"messages": []}}, ("POST", "/v1/chat/completions")),
    ({"openai_route": None, "openai_input": {"messages": []}}, ("POST", "/v1/chat/completions")),
    ({"openai_route": None, "messages": []}, ("POST", "/v1/chat/completions")),
    ({"messages": [], "prompt": None}, ("POST", "/v1/chat/completions")),
    ({"messages": None, "prompt": "x", "sampling_params": None}, ("POST", "/v1/completions")),
    ({"route": "/v1/completions", "body": {"prompt": "x"}, "method": "post"}, ("POST", "/v1/completions")),
    ({"route": "/v1/models", "body": None, "method": None}, ("GET", "/v1/models")),
    ({"route": "/health"}, ("GET", "/health")),
    ({"route": "/version", "method": "get"}, ("GET", "/version")),
    ({"openai_route": "/metrics"}, ("GET", "/metrics")),
]


@pytest.mark.parametrize(("job_input", "wanted"), OFFICIAL)
def test_what_the_official_worker_takes_is_taken(job_input, wanted):
    request = read_job(job_input, MODEL)
    assert (request.method, request.route) == wanted
    assert request.body is None or "prompt" not in json.loads(request.body) or wanted[1] == "/v1/completions"


def official(job):
    """Return what RunPod's own worker makes of a job: (method, route, body), None if nothing."""
    if job.get("openai_input"):
        return "POST", job.get("openai_route") or "/v1/chat/completions", job["openai_input"]
    if job.get("openai_route"):
        return "GET", job["openai_route"], None
    if job.get("route"):
        method = job.get("method") or ("POST" if job.get("body") else "GET")
        return method.upper(), job["route"], job.get("body")
    kind = next((kind for kind in ("messages", "prompt") if job.get(kind) is not None), None)
    if kind is None:
        return None
    body = {**(job.get("sampling_params") or {}), "stream": bool(job.get("stream", False)), kind: job[kind]}
    return "POST", "/v1/chat/completions" if kind == "messages" else "/v1/completions", body


BODIES = st.none() | st.dictionaries(
    st.sampled_from(["stream", "model", "messages", "n"]), st.sampled_from([True, "x"])
)
SOME_ROUTES = st.sampled_from([None, "", "/v1/chat/completions", "/v1/models", "/health", "/tokenize"])
JOBS = st.fixed_dictionaries(
    {},
    optional={
        "openai_route": SOME_ROUTES,
        "openai_input": BODIES,
        "route": SOME_ROUTES,
        "body": BODIES,
        "method": st.sampled_from([None, "", "POST", "post", "get"]),
        "messages": st.sampled_from([None, [], [{"role": "user", "content": "x"}]]),
        "prompt": st.sampled_from([None, "", "x"]),
        "sampling_params": BODIES,
        "stream": st.sampled_from([None, True, False, "yes"]),
    },
)


@settings(max_examples=300, deadline=None)
@given(JOBS)
def test_what_the_official_worker_makes_of_a_job_is_what_ours_makes(job):
    wanted = official(job)
    if wanted is None or ROUTES.get(wanted[1]) != wanted[0] or not isinstance(wanted[2], dict | None):
        return
    request = read_job(job, MODEL)
    assert (request.method, request.route) == wanted[:2]
    body = json.loads(request.body) if request.body is not None else None
    if request.method == "POST":
        assert {"model": MODEL, **(wanted[2] or {})}.items() <= body.items()


@given(base=st.sampled_from([job for job, _ in OFFICIAL]), names=st.sets(st.sampled_from(KEYS)))
def test_null_is_the_same_as_absent(base, names):
    """Whatever keys of a job are null, it asks for what it would ask without them."""
    assert read_job({name: None for name in names if name not in base} | base, MODEL) == read_job(
        {key: value for key, value in base.items() if value is not None}, MODEL
    )


@pytest.mark.parametrize("key", ["route", "openai_route", "method", "messages", "body", "sampling_params"])
def test_a_value_that_is_thousands_of_levels_deep_or_digits_long_is_taken_or_refused_in_a_short_sentence(key):
    deep = []
    for _ in range(5000):
        deep = [deep]
    for odd in (deep, 10**5000):
        refusal = JobError(400, "taken")
        try:
            read_job({"route": "/v1/completions", "prompt": "x"} | {key: odd}, MODEL)
        except JobError as error:
            refusal = error
        assert 400 <= refusal.code < 500
        assert len(refusal.message) < 500
