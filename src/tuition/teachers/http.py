"""A teacher over HTTP: what certainly costs nothing, the pace of requests, and a key that is never shown."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from tuition.errors import UserError
from tuition.teachers import replies
from tuition.teachers.protocol import Answer, BadAnswer, NotCharged, Reads, Refused, Teacher, check_kind

if TYPE_CHECKING:
    from tuition.teachers.request import Reply

LONGEST_WAIT = 600.0  # seconds; a server that asks for more is not waited for
LEAST_BYTES, INPUT_BYTES, MOST_BYTES = 16 << 20, 4 << 20, 256 << 20  # of an answer: in all, an input, at most
SHORT_KEY = 8  # characters
UNKNOWN = (400, 404, 405, 501)  # statuses by which servers say that they do not know a path or what it is for


@dataclass(frozen=True, eq=False)
class RemoteTeacher(Teacher):
    """A server as a teacher; made by `from_openai` or `from_v2`."""

    name: str
    fingerprint: str
    answer: Callable[[Any], Answer] = field(repr=False)
    checker: Callable[[Any], object] = field(repr=False)
    max_batch: int | None = None
    class_names: tuple[str, ...] | None = None
    reads: Reads = "anything"
    calls_per_input: int = 1
    hard_labels: bool = False

    def __call__(self, inputs: Any) -> Answer:
        check_kind(self.reads, inputs)
        return self.answer(inputs)

    def check(self, inputs: Any) -> None:
        super().check(inputs)
        self.checker(inputs)


class Client:
    """JSON to and from one server; several threads may share it.

    The key is read from the environment when a request is sent, and kept nowhere. It travels encrypted, or to this
    machine, and to the named server alone: TLS certificates are always verified, redirects are not followed, and a
    proxy never sees it. Proxies are those of the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY).

    Args:
        base_url: http(s)://host[:port][/path], without user, password or query.
        key_variable: the environment variable that holds the key; None, or an empty variable, sends none.
        timeout: seconds for a request, from its connection to the last byte of the answer.
        requests_per_minute, inputs_per_minute: the most that all threads together send, evenly spaced.
        hint: what may be wrong where the server does not know what it is asked for.

    Raises:
        UserError: no such address, a variable that cannot be one, a proxy that cannot be used, or httpx is not
            installed.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key_variable: str | None = None,
        timeout: float = 60.0,
        requests_per_minute: float | None = None,
        inputs_per_minute: float | None = None,
        hint: str = "",
    ) -> None:
        try:
            from tuition.teachers.request import Wire
        except ImportError:
            raise UserError("remote teachers need httpx; install it with pip install 'tuition[remote]'.") from None
        if key_variable is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", key_variable):
            raise UserError("name the environment variable that holds the key, such as OPENAI_API_KEY, not the key.")
        for limit in (timeout, requests_per_minute, inputs_per_minute):
            if limit is not None and not 0 < limit < math.inf:
                raise UserError(f"timeouts and rates are more than 0 and finite, not {limit}; choose others.")
        self.base_url, self.key_variable, self.timeout = plain_url(base_url), key_variable, timeout
        self._pace = Pace(requests_per_minute, inputs_per_minute)
        self._wire = Wire(self.base_url, timeout)
        self._hint, self._reached = hint, False

    def __repr__(self) -> str:
        return f"Client({self.base_url!r})"

    def check(self) -> None:
        """Whether a request can be sent, as far as that is known before.

        Raises:
            NotCharged: the key cannot be sent.
        """
        self._headers()

    def get(self, path: str) -> Any:
        """What the server says at a path. Raises as `post` does."""
        return self._send("GET", path, None, 1, ())

    def post(self, path: str, body: Any, *, inputs: int, holding: Sequence[str] = ()) -> Any:
        """The answer to a body about a number of inputs.

        An answer that tells of an error, and has none of the fields of `holding`, is raised as that error.

        Raises:
            NotCharged: the server was not reached, or refused.
            Refused: it refused these inputs.
            BadAnswer: it answered, but not in JSON.
            TimeoutError, ConnectionError: the request was sent and its fate is unknown.
        """
        try:
            content = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except UnicodeEncodeError:
            raise Refused("a text holds half of a surrogate pair, which cannot be sent") from None
        except ValueError:
            raise Refused("an input holds NaN or infinity, which JSON cannot say") from None
        self._pace.wait(inputs)
        return self._send("POST", path, content, inputs, holding)

    def _send(self, method: str, path: str, content: bytes | None, inputs: int, holding: Sequence[str]) -> Any:
        from tuition.teachers import request

        headers = self._headers()
        if content is not None:
            headers["Content-Type"] = "application/json"
        most = min(LEAST_BYTES + inputs * INPUT_BYTES, MOST_BYTES)
        try:  # the causes are left out of what is raised: they hold the request, and it holds the key
            reply = self._wire.exchange(method, path, headers, content, most)
        except request.UnreachedError as error:
            why = f"{self.base_url} cannot be reached: {self.quoted(str(error))}"
            if error.refused and not self._reached:  # then waiting helps nobody
                raise NotCharged(f"{why}; start the server, or correct its address", retry=False) from None
            raise NotCharged(why, retry=error.retry) from None
        except TimeoutError:
            raise TimeoutError(f"no answer from {self.base_url} within {self.timeout:g} s") from None
        except ConnectionError as error:
            raise ConnectionError(f"the connection to {self.base_url} was cut: {self.quoted(str(error))}") from None
        except request.UnreadableError as error:
            raise BadAnswer(f"the answer of {self.base_url} {error}") from None
        self._reached = True
        if not reply.is_success:
            raise self._refusal(reply)
        try:
            answer = replies.parse(reply.content)
        except ValueError as error:
            raise BadAnswer(f"{self.base_url} answered with {error}") from None
        trouble = replies.trouble_in(answer)
        if trouble is not None and not (isinstance(answer, dict) and any(answer.get(name) for name in holding)):
            why = f"{self.base_url} answered with an error: {self.quoted(trouble.words)}"
            raise replies.refusal(why, None, trouble, tokens=replies.tokens_of(answer))
        return answer

    def _refusal(self, reply: Reply) -> NotCharged:
        status, after = reply.status, retry_after(reply.headers.get("retry-after"))
        if status < 400:
            return NotCharged(f"{self.base_url} redirects elsewhere; give the address that it moved to", retry=False)
        try:
            trouble = replies.trouble_in(replies.parse(reply.content)) or replies.Trouble()
        except ValueError:  # a page of HTML, or no text
            trouble = replies.Trouble()
        words = f": {said}" if (said := self.quoted(trouble.words)) else ""
        if status in (401, 403):
            variable = "no key is sent" if not self._key() else f"is the key in {self.key_variable} right?"
            why = f"{self.base_url} denies access with status {status}{words} ({variable})"
        else:
            why = f"{self.base_url} refused with status {status}{words}"
        refusal = replies.refusal(why, status, trouble)
        if self._hint and status in UNKNOWN and not refusal.retry and not isinstance(refusal, Refused):
            return NotCharged(f"{why}; {self._hint}", retry=False)
        if refusal.retry and after is not None:
            if after > LONGEST_WAIT:
                return NotCharged(f"{why}, and asks to wait {after:.0f} s; run again then", retry=False)
            self._pace.hold(after)
            refusal.retry_after = after
        return refusal

    def _headers(self) -> dict[str, str]:
        key = self._key()
        if not key:
            return {}
        if not (key.isascii() and key.isprintable()):
            raise NotCharged(f"the key in {self.key_variable} holds characters that no key has", retry=False)
        parts = urlsplit(self.base_url)
        if parts.scheme != "https":
            without = f"use https, or send no key (leave {self.key_variable} empty)"
            if not _is_this_machine(parts.hostname or ""):
                raise NotCharged(
                    f"the key in {self.key_variable} would travel unencrypted to {parts.hostname}; {without}",
                    retry=False,
                )
            if self._wire.proxy is not None:
                raise NotCharged(
                    f"the key in {self.key_variable} would travel unencrypted through the proxy of the environment; "
                    f"name {parts.hostname} in NO_PROXY, {without}",
                    retry=False,
                )
        return {"Authorization": f"Bearer {key}"}

    def _key(self) -> str:
        return "" if self.key_variable is None else os.environ.get(self.key_variable, "").strip()

    def quoted(self, text: str) -> str:
        """A server's words on one short line; nothing of them where they repeat the key or a good part of it."""
        key = self._key()
        for shown in {key, quote(key, safe=""), json.dumps(key)[1:-1]} - {""}:
            if len(shown) < SHORT_KEY:  # no secret, but a word that many messages hold in others
                repeated = re.search(rf"(?<!\w){re.escape(shown)}(?!\w)", text) is not None
            else:
                repeated = any(shown[i : i + SHORT_KEY] in text for i in range(len(shown) - SHORT_KEY + 1))
            if repeated:
                return "(its message repeats the key, and is left out)"
        return replies.line(text)


class Pace:
    """When the next request may go out: evenly spaced over all threads, and after a pause that a server requests."""

    def __init__(
        self,
        requests_per_minute: float | None,
        inputs_per_minute: float | None,
        *,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self._a_request = 60 / (requests_per_minute or math.inf)
        self._an_input = 60 / (inputs_per_minute or math.inf)
        self._free, self._lock = 0.0, threading.Condition()
        self._now, self._pause = now, pause

    def wait(self, inputs: int) -> None:
        """Wait until a request about this number of inputs may be sent."""
        with self._lock:
            while (seconds := self._free - self._now()) > 0:
                self._pause(self._lock, seconds)  # others may come in meanwhile, also to hold for longer
            self._free = self._now() + max(self._a_request, inputs * self._an_input)

    def hold(self, seconds: float) -> None:
        """Let nothing more out for this number of seconds."""
        with self._lock:
            self._free = max(self._free, self._now() + seconds)


def plain_url(url: str) -> str:
    """An address without a closing slash.

    Raises:
        UserError: it is not one, or holds a user, a password or a query. The message does not repeat it, because it
            may hold a secret.
    """
    try:
        parts = urlsplit(url.strip())
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        fits = fits and all(c.isprintable() and c != " " for c in url.strip())
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


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3); None if unreadable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
