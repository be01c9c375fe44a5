"""What `up` and `rollback` have in common: send, and then wait, ask a question, and tell the application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deployment import env_file, rollout
from deployment.errors import DeployError

if TYPE_CHECKING:
    from deployment.answers import Endpoint
    from deployment.rest_api import RunpodApi
    from deployment.session import Session

Json = dict[str, Any]


def send(session: Session, api: RunpodApi, body: Json, live: Endpoint | None) -> Endpoint:
    """Create or change the endpoint, and keep `if_interrupted` true all the way."""
    endpoint = _create(session, api, body) if live is None else _change(session, api, body, live) if body else live
    session.if_interrupted = (
        f"Endpoint {session.deploy.name} ({endpoint.id}) exists with these settings: `make deploy` again goes on from "
        "here, `make undeploy` removes it."
    )
    return endpoint


def finish(session: Session, api: RunpodApi, endpoint: Endpoint, *, wait: bool) -> Json:
    """Wait, ask, and write the file for the application; return what machines are told."""
    terminal, deploy = session.terminal, session.deploy
    url = endpoint.base_url or api.endpoint(endpoint.id).base_url
    if url is None:
        raise DeployError("RunPod gave no address for the endpoint: see it in RunPod's console.")
    model = endpoint.env.get("SERVE_SERVED_MODEL_NAME") or session.config.served_name
    answer = None
    if wait:
        rollout.wait_until_ready(api, endpoint, init_timeout=deploy.init_timeout, terminal=terminal)
        terminal.say(f"Question: {rollout.QUESTION}")
        answer = rollout.ask(url, session.key, model)
        terminal.say(f"Answer:   {answer}")
    key = session.key if deploy.client_key is None else deploy.client_key.get_secret_value()
    env_file.write(url, key, model)
    terminal.say(f"Wrote {env_file.ENV_FILE}: LLM_BASE_URL={url}, LLM_API_KEY, LLM_MODEL={model}.")
    if deploy.client_key is None:
        terminal.say(
            "The key in it is RUNPOD_API_KEY, which may change the whole account. Give an application a restricted one "
            "(RunPod's console, Settings, API Keys: Restricted, this endpoint alone) by DEPLOY_CLIENT_KEY."
        )
    return {"base_url": url, "model": model, "answer": answer}


def without_twin(session: Session, api: RunpodApi, created: Endpoint) -> Endpoint:
    """Return the one endpoint of the name: the elder, where another deploy has made one at the same time.

    Each of the two finds both and removes its own if that is the younger, so that one is left, whoever looks first.
    """
    found = {item.id: item for item in (*api.endpoints_called(session.deploy.name), created)}
    elder = min(found.values(), key=lambda item: (item.created_at, item.id))
    if elder.id == created.id:
        return created
    api.delete_endpoint(created.id)
    session.terminal.warn(
        f"another deploy has made endpoint {elder.name} ({elder.id}) at the same time: this one's ({created.id}) is "
        "removed again. `make deploy` compares the other with your settings."
    )
    return elder


def _create(session: Session, api: RunpodApi, body: Json) -> Endpoint:
    name = session.deploy.name
    # A question may have stood for minutes since the endpoint was looked for.
    meanwhile = session.find(api)
    if meanwhile is not None:
        raise DeployError(f"Endpoint {name} ({meanwhile.id}) has been made meanwhile: run `make deploy` again.")
    session.if_interrupted = (
        f"Endpoint {name} may have been created: `make deploy` again finds it by its name, `make undeploy` removes it."
    )
    try:
        endpoint = api.create_endpoint(body)
    except DeployError as error:
        if 400 <= getattr(error, "status", 500) < 500:
            session.if_interrupted = "Nothing was created."
        raise
    session.terminal.say(f"Created endpoint {name} ({endpoint.id}).", "green")
    return without_twin(session, api, endpoint)


def _change(session: Session, api: RunpodApi, body: Json, live: Endpoint) -> Endpoint:
    name = session.deploy.name
    session.if_interrupted = f"Endpoint {name} has its old or its new settings, whole: `make deploy` again settles it."
    try:
        endpoint = api.update_endpoint(live.id, body)
    except DeployError as error:
        if 400 <= getattr(error, "status", 500) < 500:
            session.if_interrupted = f"Endpoint {name} is as it was before."
        raise
    session.terminal.say(f"Changed endpoint {name} ({endpoint.id}).", "green")
    return endpoint
