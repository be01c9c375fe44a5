"""A model on the Hugging Face hub, read without its weights: config.json, the index, the heads of safetensors files.

The addresses are those of the hub's library (`/OWNER/NAME/resolve/main/FILE`). A safetensors file begins with eight
bytes of length and so much JSON, which names each tensor with its place in the file
(https://huggingface.co/docs/safetensors); both are read by ranges, and where a server knows no ranges, from the
beginning of the whole. Everything that is read has a limit, in bytes and in time.
"""

from __future__ import annotations

import http.client
import json
import re
import struct
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from serving.errors import ConfigurationError, Refused, ServingError
from serving.model.description import Files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SILENT_S = 10.0  # longest silence of the hub
LONGEST_S = 60.0  # longest answer
CONFIG_LIMIT = 4 * 2**20
INDEX_LIMIT = 64 * 2**20
HEADER_LIMIT = 64 * 2**20
HEADERS = 16  # of so many files at most: what takes images and sound stands in the first ones, or in one of its own
CHUNK = 2**16
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
_OUTSIDE = re.compile(r"vision|visual|audio|image|multi_modal|mm_projector|embed_vision|embed_audio")


@dataclass(frozen=True)
class HubModel:
    """What the hub says of a model. `gated`: its weights want a token, with which its licence was accepted."""

    config: dict[str, Any]
    files: Files
    gated: bool


@dataclass(frozen=True)
class HubReader:
    """How to read the hub at `url`: with `token`, or not at all (`offline`). `said` is what a name is called."""

    url: str
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    said: str = "SERVE_MODEL"

    def read(self, name: str) -> HubModel:
        """Return what can be known of the model `owner/name` before its weights are here.

        Raises ConfigurationError if there is no such model, Refused if it may not or cannot be read.
        """
        if not NAME.fullmatch(name):
            raise ConfigurationError(
                f"{self.said}={name!r} is not allowed: it is no folder, and no model's name on Hugging Face like "
                "google/gemma-3-27b-it."
            )
        if self.offline:
            raise Refused(
                f"{self.said}={name!r} is not known here, and HF_HUB_OFFLINE forbids to ask the hub: unset it, or put "
                f"the model's configuration into the cache with `.venv-engine/bin/hf download {name} config.json`."
            )
        config = self._json(name, "config.json", CONFIG_LIMIT)
        if config is None:
            raise ConfigurationError(
                f"{self.said}={name!r} is not allowed: it has no config.json on {self.url}, so it is no model that "
                "vLLM serves by name (a repository of GGUF files, or an adapter?)."
            )
        return HubModel(config, self._files(name), gated=self._gated(name))

    def _files(self, name: str) -> Files:
        """Return the sizes that the checkpoint's files tell; what they do not tell for certain is left out."""
        try:
            index = self._json(name, "model.safetensors.index.json", INDEX_LIMIT)
            if index is None:
                return _sizes([self._header(name, "model.safetensors")])
            total = (index.get("metadata") or {}).get("total_size")
            whole = int(total) if isinstance(total, (int, float)) and total > 0 else None
            names = {str(tensor): str(file) for tensor, file in (index.get("weight_map") or {}).items()}
            files = sorted({file for tensor, file in names.items() if _OUTSIDE.search(tensor)})
            if not files or len(files) > HEADERS:
                return Files(whole, None)
            return Files(whole, _sizes(self._header(name, file) for file in files).outside_bytes)
        except (AttributeError, ServingError):
            return Files()

    def _gated(self, name: str) -> bool:
        """Whether the configuration is closed to somebody without a token."""
        if self.token is None:
            return False
        try:
            request = urllib.request.Request(self._address(name, "config.json"), method="HEAD")
            with _opener().open(request, timeout=SILENT_S):
                return False
        except urllib.error.HTTPError as error:
            error.close()
            return error.code in (401, 403)
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def _json(self, name: str, file: str, limit: int) -> dict[str, Any] | None:
        """Return a file's JSON object, None if there is no such file."""
        raw = self._get(name, file, 0, limit + 1)
        if raw is None:
            return None
        if len(raw) > limit:
            raise Refused(f"{file} of {name} is larger than {limit >> 20} MiB on {self.url}: that is no {file}.")
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Refused(
                f"What {self.url} sent as {file} of {name} is no JSON: is there a proxy or a sign-in page between? "
                "HF_ENDPOINT is the hub's address."
            ) from error
        if not isinstance(found, dict):
            raise Refused(f"What {self.url} sent as {file} of {name} is no JSON object.")
        return found

    def _header(self, name: str, file: str) -> dict[str, Any] | None:
        """Return the head of a safetensors file: its tensors by name; None if there is no such file, or no head."""
        raw = self._get(name, file, 0, 8)
        if raw is None or len(raw) < 8:
            return None
        (length,) = struct.unpack("<Q", raw)
        if not 2 <= length <= HEADER_LIMIT:
            return None
        raw = self._get(name, file, 8, length)
        try:
            found = json.loads(raw or b"")
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _get(self, name: str, file: str, begin: int, length: int) -> bytes | None:
        """Return at most `length` bytes of a file from `begin` on, None if there is no such file."""
        headers = {"User-Agent": "gemma-vllm-kit", "Range": f"bytes={begin}-{begin + length - 1}"}
        try:
            request = urllib.request.Request(self._address(name, file), headers=headers)
            if self.token:
                request.add_unredirected_header("Authorization", f"Bearer {self.token}")
            with _opener().open(request, timeout=SILENT_S) as response:
                skip = begin if response.status == http.client.OK else 0  # the whole file: it knows no ranges
                expected = response.headers.get("Content-Length")
                raw = _read(response, skip + length)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return b""  # the file is empty
                there = error.headers.get("X-Error-Code") == "EntryNotFound"  # the model is, this file of it is not
                if error.code == http.client.NOT_FOUND and (file != "config.json" or there):
                    return None
                raise self._refusal(name, error) from None
        except http.client.IncompleteRead:
            raise self._cut_off(name, file) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Refused(
                f"{self.said}={name!r} is not known here, and {self.url} cannot be read ({_reason(error)}): check the "
                "network, HF_ENDPOINT and the proxy's variables, or name a folder that holds the model."
            ) from error
        if expected is not None and expected.isdecimal() and len(raw) < min(int(expected), skip + length):
            raise self._cut_off(name, file)
        return raw[skip:]

    def _cut_off(self, name: str, file: str) -> Refused:
        return Refused(f"The answer of {self.url} for {file} of {name} was cut off: try again.")

    def _refusal(self, name: str, error: urllib.error.HTTPError) -> ServingError:
        page = f"{self.url}/{name}"
        if error.code == http.client.NOT_FOUND:
            return ConfigurationError(
                f"{self.said}={name!r} is not allowed: there is no such model on {self.url} (or it is private, and "
                "HF_TOKEN does not open it)."
            )
        if error.code == http.client.UNAUTHORIZED:
            if self.token:
                return Refused(f"{self.url} does not accept the token for {name}: HF_TOKEN is wrong or has expired.")
            return Refused(
                f"{name} cannot be read without a token: if it is gated, accept its licence at {page} and set "
                "HF_TOKEN; if not, there is no such model."
            )
        if error.code == http.client.FORBIDDEN:
            return Refused(
                f"{name} is gated and may not be read{' with this token' if self.token else ''}: accept its licence at "
                f"{page}, set HF_TOKEN, and let a fine-grained token read gated repositories."
            )
        if error.code == http.client.TOO_MANY_REQUESTS:
            return Refused(
                f"{name} cannot be read now: {self.url} has had too many requests from here (429). Try again later, or "
                "set HF_TOKEN."
            )
        return Refused(f"{self.url} answers {error.code} for {name}: try again later.")

    def _address(self, name: str, file: str) -> str:
        return f"{self.url}/{quote(name)}/resolve/main/{quote(file)}"


class _KeepTheToken(urllib.request.HTTPRedirectHandler):
    """Redirects, to a CDN for instance, are followed without the token, and from https to https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the next request. The token is an unredirected header: it goes along to the same place alone."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if before.scheme == "https" and after.scheme != "https":
            raise urllib.error.URLError("it redirects to an address without TLS")
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.get_header("Authorization")
        if found is not None and token and (before.scheme, before.netloc) == (after.scheme, after.netloc):
            found.add_unredirected_header("Authorization", token)
        return found


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_KeepTheToken)


def _read(response: Any, most: int) -> bytes:
    """Return what an answer holds, at most so many bytes. Raises TimeoutError for one that trickles."""
    end = time.monotonic() + LONGEST_S
    found = bytearray()
    while len(found) < most:
        chunk = response.read1(min(CHUNK, most - len(found)))
        if not chunk:
            break
        found += chunk
        if time.monotonic() > end:
            raise TimeoutError(f"it took longer than {LONGEST_S:.0f} s")
    return bytes(found)


def _sizes(headers: Iterable[Mapping[str, Any] | None]) -> Files:
    """Return the bytes of all tensors of files with these heads, and of those outside the language model."""
    whole = outside = 0
    try:
        for header in headers:
            for name, tensor in (header or {}).items():
                if name == "__metadata__":
                    continue
                begin, end = tensor["data_offsets"]
                whole += end - begin
                outside += end - begin if _OUTSIDE.search(name) else 0
    except (TypeError, KeyError, ValueError):
        return Files()
    return Files(whole or None, outside or None)


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "reason", None) or error).split())
    return "".join(letter for letter in text if letter.isprintable())[:120] or type(error).__name__
