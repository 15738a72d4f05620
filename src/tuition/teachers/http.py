"""A server that teaches over HTTP: what surely costs nothing, how fast it is asked, and a key that shows nowhere."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

from torch import Tensor

from tuition.errors import UserError
from tuition.teachers.protocol import BadAnswer, NotCharged

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 2.0  # a connection idle for longer is not used again: the server may be about to close it
LONGEST_WAIT = 600.0  # seconds; a server that asks for more is not waited for
REFUSED_FOR_NOW = (408, 409, 425, 429)  # and all of 500 and above


@dataclass(frozen=True, eq=False)
class RemoteTeacher:
    """A server as a teacher; made by `from_openai` or `from_v2`."""

    name: str
    fingerprint: str
    max_batch: int
    answer: Callable[[Any], dict[str, Tensor]] = field(repr=False)

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        return self.answer(inputs)


class Client:
    """JSON to and from one server; several threads may share it.

    The key is read from the environment when a request is sent, and kept nowhere. TLS certificates are always verified,
    and redirects are not followed.

    Args:
        base_url: http(s)://host[:port][/path], without user, password or query.
        key_variable: the environment variable that holds the key; None, or an empty variable, sends none.
        timeout: seconds to wait for the answer (for each part of it that arrives).
        requests_per_minute, inputs_per_minute: the most that all threads together send, evenly spaced.

    Raises:
        UserError: no such address, a variable that cannot be one, or httpx is not installed.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key_variable: str | None = None,
        timeout: float = 60.0,
        requests_per_minute: float | None = None,
        inputs_per_minute: float | None = None,
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise UserError("remote teachers need httpx; install it with pip install 'tuition[remote]'.") from None
        if key_variable is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", key_variable):
            raise UserError("name the environment variable that holds the key, such as OPENAI_API_KEY, not the key.")
        for limit in (timeout, requests_per_minute, inputs_per_minute):
            if limit is not None and not limit > 0:
                raise UserError(f"timeouts and rates are more than 0, not {limit}; choose others.")
        self.base_url, self.key_variable, self.timeout = plain_url(base_url), key_variable, timeout
        self._pace = Pace(requests_per_minute, inputs_per_minute)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_SECONDS)
        seconds = httpx.Timeout(timeout, connect=CONNECT_SECONDS)
        self._http = httpx.Client(timeout=seconds, limits=limits, follow_redirects=False)

    def __repr__(self) -> str:
        return f"Client({self.base_url!r})"

    def get(self, path: str) -> Any:
        """What the server says at a path. Raises as `post` does."""
        return self._send("GET", path, None)

    def post(self, path: str, body: Any, *, inputs: int) -> Any:
        """The answer to a body about so many inputs.

        Raises:
            NotCharged: the server was not reached, or refused.
            BadAnswer: it answered, but not in JSON.
            TimeoutError, ConnectionError: the request was sent and its fate is unknown.
        """
        self._pace.wait(inputs)
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: Any) -> Any:
        import httpx

        try:  # the causes are left out of what is raised: they hold the request, and it holds the key
            reply = self._http.request(method, self.base_url + path, json=body, headers=self._headers())
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            why = self._scrubbed(str(error)) or type(error).__name__
            certain = "CERTIFICATE_VERIFY_FAILED" in why
            raise NotCharged(f"{self.base_url} cannot be reached: {why}", retry=not certain) from None
        except httpx.TimeoutException:
            raise TimeoutError(f"no answer from {self.base_url} within {self.timeout:g} s") from None
        except httpx.HTTPError as error:
            why = self._scrubbed(str(error)) or type(error).__name__
            raise ConnectionError(f"the connection to {self.base_url} was cut: {why}") from None
        if not reply.is_success:
            raise self._refusal(reply)
        try:
            return reply.json()
        except ValueError:
            raise BadAnswer(f"{self.base_url} answered with something that is not JSON") from None

    def _refusal(self, reply: Any) -> NotCharged:
        status, after = reply.status_code, retry_after(reply.headers.get("Retry-After"))
        retry = status >= 500 or status in REFUSED_FOR_NOW
        if status in (401, 403):  # its words may well repeat the key
            variable = "no key is sent" if self.key_variable is None else f"is the key in {self.key_variable} right?"
            return NotCharged(f"{self.base_url} denies access with status {status}; {variable}", retry=False)
        if status < 400:
            return NotCharged(f"{self.base_url} redirects elsewhere; give the address that it moved to", retry=False)
        why = f"{self.base_url} refused with status {status}{self._scrubbed(_words(reply.text))[:300]}"
        if retry and after is not None:
            if after > LONGEST_WAIT:
                return NotCharged(f"{why}, and asks to wait {after:.0f} s; run again then", retry=False)
            self._pace.hold(after)
        return NotCharged(why, retry_after=after, retry=retry)

    def _headers(self) -> dict[str, str]:
        key = self._key()
        if not key:
            return {}
        if not (key.isascii() and key.isprintable()):
            raise NotCharged(f"the key in {self.key_variable} holds characters that no key has", retry=False)
        parts = urlsplit(self.base_url)
        if parts.scheme != "https" and not _is_this_machine(parts.hostname or ""):
            raise NotCharged(
                f"the key in {self.key_variable} would travel unencrypted to {parts.hostname}; use https", retry=False
            )
        return {"Authorization": f"Bearer {key}"}

    def _key(self) -> str:
        return "" if self.key_variable is None else os.environ.get(self.key_variable, "").strip()

    def _scrubbed(self, text: str) -> str:
        """The text, unless it repeats the key or a good part of it."""
        key = self._key()
        for shown in {key, quote(key, safe=""), json.dumps(key)[1:-1]} - {""}:
            if any(shown[i : i + 8] in text for i in range(max(1, len(shown) - 7))):
                return " (its message repeats the key, and is left out)"
        return text


class Pace:
    """When the next request may go out: evenly spaced over all threads, and after a pause that any of them was told."""

    def __init__(self, requests_per_minute: float | None, inputs_per_minute: float | None) -> None:
        self._a_request = 60 / (requests_per_minute or math.inf)
        self._an_input = 60 / (inputs_per_minute or math.inf)
        self._free, self._lock = 0.0, threading.Condition()

    def wait(self, inputs: int) -> None:
        """Wait until a request about so many inputs may be sent."""
        with self._lock:
            while (seconds := self._free - time.monotonic()) > 0:
                self._lock.wait(seconds)  # others may come in meanwhile, also to hold for longer
            self._free = time.monotonic() + max(self._a_request, inputs * self._an_input)

    def hold(self, seconds: float) -> None:
        """Let nothing more out for so long."""
        with self._lock:
            self._free = max(self._free, time.monotonic() + seconds)


def plain_url(url: str) -> str:
    """An address without a closing slash.

    Raises:
        UserError: it is none, or holds a user, a password or a query. It is not repeated, for it may hold a secret.
    """
    try:
        parts = urlsplit(url.strip())
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise UserError("a server's address is http(s)://host[:port]/path; give one like that.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            "a server's address holds no user, password, query or fragment; leave them out, and put the key in the "
            "environment."
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def retry_after(value: str | None) -> float | None:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3); None where there is none that can be read."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _words(body: str) -> str:
    """What a server says about an error, as it stands in OpenAI's, V2's and FastAPI's answers."""
    try:
        found = json.loads(body)
    except ValueError:
        return ""  # a page of HTML
    for name in ("error", "message", "detail"):
        found = found.get(name, found) if isinstance(found, dict) else found
    said = " ".join(str(found).split())
    return f": {said}" if said else ""
