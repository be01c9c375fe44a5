"""`python -m serving status`: what a server does now, here or elsewhere, for a person or for a program."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import httpx

from client.terminal import sanitize_line
from serving.engine import metrics
from serving.engine.command import reachable
from serving.errors import ConfigurationError
from serving.settings import ServeSettings, is_loopback

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

BODY_LIMIT = 16 << 20
TIMEOUT_S = 10.0
BETWEEN_SAMPLES_S = 1.0


@dataclass(frozen=True)
class Status:
    """One look at a server. Rates are per second, times in milliseconds, shares from 0 to 1; None: not known."""

    url: str
    healthy: bool
    problem: str | None = None
    models: tuple[str, ...] = ()
    running: float | None = None
    waiting: float | None = None
    kv_cache: float | None = None
    tokens_in: float | None = None
    tokens_out: float | None = None
    first_token_median: float | None = None
    first_token_p95: float | None = None
    between_tokens_median: float | None = None
    between_tokens_p95: float | None = None
    prefix_hits: float | None = None
    preemptions: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    parser.add_argument(
        "--url", help="server to look at, such as http://10.0.0.5:8000 (default: the one of SERVE_PORT)"
    )
    parser.add_argument(
        "--watch", type=float, nargs="?", const=2.0, metavar="SECONDS", help="go on, every 2 (or so many) seconds"
    )
    parser.add_argument("--json", action="store_true", help="print for machines: an object, with --watch one a line")


def run(args: argparse.Namespace) -> int:
    """Print the status; return 0 if the server is healthy, else 1. Raises ConfigurationError."""
    settings = ServeSettings.load()
    if args.watch is not None and args.watch <= 0:
        raise ConfigurationError(f"--watch={args.watch:g} is not allowed: it must be more than 0 seconds.")
    scheme = "https" if settings.tls_cert else "http"
    url = _origin(args.url) if args.url else f"{scheme}://{reachable(settings.host)}:{settings.port}"
    key = settings.api_key.get_secret_value() if settings.api_key else None
    with Server(url, key) as server:
        if args.watch is None:
            found = server.status()
            if args.json:
                print(json.dumps(asdict(found), indent=2))
            else:
                _show(found)
            return 0 if found.healthy else 1
        return _watch(server, args.watch, as_json=args.json)


def _origin(url: str) -> str:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host or parts.userinfo:
        raise ConfigurationError(
            "--url is not allowed: it must be an http:// or https:// address without a password, such as "
            "http://10.0.0.5:8000."
        )
    return url.rstrip("/").removesuffix("/v1")


class Server:
    """A server that is asked for its health and its metrics. Use as `with Server(url, key) as server:`."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        trusted = not is_loopback(httpx.URL(url).host)  # a proxy has no business on loopback
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_S, trust_env=trusted, verify=trusted)
        self._last: tuple[float, metrics.Sample] | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def status(self) -> Status:
        """Take a sample (two, a second apart, the first time); never raises for what the server does."""
        try:
            health = self._get("/health")
            if health.status_code not in (200, 404):
                return Status(self.url, healthy=False, problem=_said(health, "/health"))
            answer = self._get("/metrics")
            if answer.status_code in (401, 403):
                said = "asks for a key: set SERVE_API_KEY (or LLM_API_KEY) to it"
                return Status(self.url, healthy=health.status_code == 200, problem=said)
            if answer.status_code != 200:
                return Status(self.url, healthy=False, problem=_said(answer, "/metrics"))
            sample, now = metrics.read_sample(answer.text), time.monotonic()
            if self._last is None:
                self._last = (now, sample)
                time.sleep(BETWEEN_SAMPLES_S)
                return self.status()
            models = self._models()
        except (httpx.HTTPError, ValueError) as error:
            return Status(
                self.url,
                healthy=False,
                problem=f"does not answer ({sanitize_line(str(error)) or type(error).__name__})",
            )
        before, self._last = self._last, (now, sample)
        return _status(self.url, models, before[1], sample, now - before[0])

    def _get(self, path: str) -> httpx.Response:
        with self._http.stream("GET", self.url + path) as answer:
            body = bytearray()
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > BODY_LIMIT:
                    raise ValueError(f"{path} is larger than {BODY_LIMIT >> 20} MiB")
            return httpx.Response(answer.status_code, content=bytes(body))

    def _models(self) -> tuple[str, ...]:
        answer = self._get("/v1/models")
        body = answer.json() if answer.status_code == 200 else {}
        listed = body.get("data") if isinstance(body, dict) else None
        entries = listed if isinstance(listed, list) else []
        return tuple(str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry)


def _said(answer: httpx.Response, path: str) -> str:
    return f"{path} answers {answer.status_code}: {sanitize_line(answer.text)[:200]}".rstrip(": ")


def _status(url: str, models: tuple[str, ...], before: metrics.Sample, after: metrics.Sample, seconds: float) -> Status:
    def milliseconds(name: str, share: float) -> float | None:
        found = metrics.quantile(after, name, share, before)
        if found is None:
            found = metrics.quantile(after, name, share)  # nothing came between: since the server's start
        return None if found is None else round(found * 1000, 1)

    def per_second(name: str) -> float | None:
        found = metrics.rate(before, after, name, seconds)
        return None if found is None else round(found, 1)

    queries, hits = after.get(metrics.PREFIX_QUERIES), after.get(metrics.PREFIX_HITS)
    return Status(
        url,
        healthy=True,
        models=models,
        running=after.get(metrics.RUNNING),
        waiting=after.get(metrics.WAITING),
        kv_cache=after.get(metrics.KV_CACHE),
        tokens_in=per_second(metrics.PROMPT_TOKENS),
        tokens_out=per_second(metrics.GENERATED_TOKENS),
        first_token_median=milliseconds(metrics.FIRST_TOKEN, 0.5),
        first_token_p95=milliseconds(metrics.FIRST_TOKEN, 0.95),
        between_tokens_median=milliseconds(metrics.BETWEEN_TOKENS, 0.5),
        between_tokens_p95=milliseconds(metrics.BETWEEN_TOKENS, 0.95),
        prefix_hits=round(hits / queries, 4) if queries and hits is not None else None,
        preemptions=after.get(metrics.PREEMPTIONS),
    )


def _lines(found: Status) -> Iterator[tuple[str, str]]:
    def number(value: float | None, unit: str = "", digits: int = 0) -> str:
        return "not known" if value is None else f"{value:,.{digits}f}{unit}"

    def pair(median: float | None, p95: float | None) -> str:
        return "none yet" if median is None else f"{number(median, ' ms', 1)} (95th: {number(p95, ' ms', 1)})"

    share = None if found.kv_cache is None else found.kv_cache * 100
    hits = None if found.prefix_hits is None else found.prefix_hits * 100
    yield "model", ", ".join(map(sanitize_line, found.models)) or "not known"
    yield "requests", f"{number(found.running)} running, {number(found.waiting)} waiting"
    yield "tokens/s", f"{number(found.tokens_out, digits=1)} out, {number(found.tokens_in, digits=1)} in"
    yield "KV cache", number(share, " % in use", 1)
    yield "first token", pair(found.first_token_median, found.first_token_p95)
    yield "between tokens", pair(found.between_tokens_median, found.between_tokens_p95)
    yield "prefix cache", "not asked yet" if hits is None else number(hits, " % hits", 1)
    yield "preemptions", number(found.preemptions)


def _show(found: Status) -> None:
    print(_headline(found))
    if found.healthy and found.problem is None:
        for name, value in _lines(found):
            print(f"  {name:<15} {value}")


def _headline(found: Status) -> str:
    state = "healthy" if found.healthy else "NOT HEALTHY"
    return f"{found.url}: {state}" + (f": {found.problem}" if found.problem else "")


def _watch(server: Server, seconds: float, *, as_json: bool) -> int:
    found: Status | None = None
    try:
        while True:
            found = server.status()
            if as_json:
                print(json.dumps(asdict(found)), flush=True)
            else:
                print(f"{time.strftime('%H:%M:%S')}  {_one_line(found)}", flush=True)
            time.sleep(seconds)
    except KeyboardInterrupt:
        return 0 if found is not None and found.healthy else 1


def _one_line(found: Status) -> str:
    if not found.healthy or found.problem:
        return _headline(found)
    wanted = ("requests", "tokens/s", "KV cache", "first token")
    return "  ".join(f"{name} {value}" for name, value in _lines(found) if name in wanted)
