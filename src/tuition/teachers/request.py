"""One request on the wire: proxies of the environment, one deadline for all of it, and a reply of bounded size."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
import ssl
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from tuition.errors import UserError

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 2.0  # a connection idle for longer is not used again: the server may be about to close it
ERROR_BYTES = 4 << 20  # of the body of an error, which may repeat the inputs
SLICE = 16 << 10  # bytes written at a time; the deadline is looked at between two
TROUBLE = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.ProxyError)

_now = threading.local()  # .deadline of the request that this thread makes


@dataclass(frozen=True)
class Reply:
    """A reply that arrived; of an error, as much of its body as could be read."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class UnreachedError(Exception):
    """Nothing of the request was sent.

    Args:
        retry: whether the same request may succeed later.
        refused: whether nobody listens at the address, or it has no name.
    """

    def __init__(self, why: str, *, retry: bool = True, refused: bool = False) -> None:
        super().__init__(why)
        self.retry, self.refused = retry, refused


class UnreadableError(Exception):
    """The body of an answer arrived, but it is too large, or not encoded as announced."""


class Wire:
    """Connections to one server; several threads may share them.

    Args:
        base_url: as `http.plain_url` returns it.
        timeout: seconds for a request from its connection to the last byte of the reply.

    Raises:
        UserError: the environment's proxy or certificates cannot be used.
    """

    def __init__(self, base_url: str, timeout: float) -> None:
        try:
            self._base = httpx.URL(base_url)
        except (httpx.InvalidURL, ValueError, UnicodeError):
            raise UserError("a server's address is http(s)://host[:port]/path; give one like that.") from None
        self.timeout = timeout
        self.proxy = _proxy_of(self._base)
        self._pool = _pool(self.proxy, _certificates() if self._base.scheme == "https" else None)
        weakref.finalize(self, self._pool.close)

    def exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, most: int) -> Reply:
        """The reply to a request; that of a success has at most `most` bytes.

        Raises:
            UnreachedError: nothing was sent.
            UnreadableError: a success whose body cannot be read.
            TimeoutError, ConnectionError: the request was sent, or a part of it, and its fate is unknown.
        """
        sent = False

        def trace(event: str, info: dict[str, Any]) -> None:
            nonlocal sent
            if event == "http11.send_request_headers.started" and info["request"].method != b"CONNECT":
                sent = True

        _now.deadline = time.monotonic() + self.timeout
        url = httpx.URL(str(self._base) + path)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        seconds = {"connect": min(CONNECT_SECONDS, self.timeout), "read": self.timeout, "write": self.timeout}
        extensions = {"timeout": seconds, "trace": trace}
        offered = {"Host": url.netloc.decode(), "Accept": "application/json", "Accept-Encoding": "gzip", **headers}
        try:
            with self._pool.stream(
                method, target, headers=list(offered.items()), content=body, extensions=extensions
            ) as response:
                return _read(response, most)
        except TROUBLE as error:
            why = str(error) or type(error).__name__
            if not sent:
                refused = isinstance(error, httpcore.ConnectError)
                raise UnreachedError(why, retry=_may_pass(error, why), refused=refused) from None
            if isinstance(error, httpcore.TimeoutException):
                raise TimeoutError from None
            raise ConnectionError(why) from None


def _may_pass(error: Exception, why: str) -> bool:
    """Whether what kept a request from being sent may be over soon."""
    if isinstance(error, httpcore.ProxyError):
        return re.match("5|408|429", why) is not None
    return not re.search("CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER", why)


def _read(response: httpcore.Response, most: int) -> Reply:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    encodings = [part.strip().lower() for part in headers.get("content-encoding", "").split(",")]
    encodings = [part for part in encodings if part not in ("", "identity")]
    stream = response.iter_stream()
    if 200 <= response.status < 300:
        content = b"".join(_bounded(_decoded(stream, encodings), most))
    else:  # whatever its body is like, its status counts
        parts: list[bytes] = []
        with contextlib.suppress(UnreadableError, *TROUBLE):
            parts.extend(_bounded(_decoded(stream, encodings), ERROR_BYTES))
        content = b"".join(parts)
    return Reply(response.status, headers, content)


def _bounded(parts: Iterable[bytes], most: int) -> Iterator[bytes]:
    size = 0
    for part in parts:
        size += len(part)
        if size > most:
            raise UnreadableError(f"is larger than {most / 2**20:.4g} MiB")
        yield part


def _decoded(parts: Iterable[bytes], encodings: list[str]) -> Iterator[bytes]:
    """The parts without their encoding, in pieces of a bounded size: a few bytes may stand for very many."""
    if not encodings:
        yield from parts
        return
    if encodings not in (["gzip"], ["x-gzip"]):
        raise UnreadableError(f"is encoded as {', '.join(encodings)[:40]}, which was not offered")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for part in parts:
            left = part
            while left:
                if inflater.eof:  # another member follows
                    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
                yield inflater.decompress(left, 1 << 20)
                left = inflater.unconsumed_tail
                if inflater.eof:  # what follows is another member, or nothing that counts
                    left = inflater.unused_data if inflater.unused_data.startswith(b"\x1f") else b""
        if not inflater.eof:
            yield inflater.flush()
    except zlib.error:
        raise UnreadableError("is not compressed as it says") from None
    if not inflater.eof:
        raise UnreadableError("is compressed, and cut off")


# -- proxies and certificates ------------------------------------------------------------------------------------------


def _proxy_of(url: httpx.URL) -> httpx.URL | None:
    """The proxy that the environment sets for an address; its own address may hold a password, and is never shown.

    Raises:
        UserError: it cannot be used.
    """
    proxies = getproxies()
    address = (proxies.get(url.scheme) or proxies.get("all") or "").strip()
    netloc = url.netloc.decode()
    if not address or proxy_bypass(netloc) or proxy_bypass(url.host):
        return None
    names = f"{url.scheme.upper()}_PROXY or ALL_PROXY"
    try:
        proxy = httpx.URL(address if "://" in address else f"http://{address}")
        parts = urlsplit(str(proxy))
        sound = re.fullmatch(r"[\w.:-]+", parts.hostname or "") is not None and parts.port != 0
    except (httpx.InvalidURL, ValueError, UnicodeError):
        sound = False
    if not sound:
        raise UserError(
            f"the proxy in {names} is not an address such as http://host:port; correct it, or name {url.host} in "
            "NO_PROXY."
        )
    if proxy.scheme not in ("http", "https", "socks5", "socks5h"):
        raise UserError(
            f"the proxy in {names} has the scheme {proxy.scheme[:20]}; use http, https or socks5, or name "
            f"{url.host} in NO_PROXY."
        )
    if proxy.scheme.startswith("socks5") and importlib.util.find_spec("socksio") is None:
        raise UserError(
            f"the proxy in {names} speaks SOCKS, which needs socksio; install it with pip install 'httpx[socks]', or "
            f"name {url.host} in NO_PROXY."
        )
    return proxy


def _pool(proxy: httpx.URL | None, certificates: ssl.SSLContext | None) -> httpcore.ConnectionPool:
    settings: dict[str, Any] = {"ssl_context": certificates, "max_connections": None}
    settings |= {"keepalive_expiry": IDLE_SECONDS, "network_backend": _Timed()}
    if proxy is None:
        return httpcore.ConnectionPool(**settings)
    address = httpcore.URL(scheme=proxy.raw_scheme, host=proxy.raw_host, port=proxy.port, target=b"/")
    auth = (proxy.username.encode(), proxy.password.encode()) if proxy.userinfo else None
    if proxy.scheme.startswith("socks5"):
        return httpcore.SOCKSProxy(proxy_url=address, proxy_auth=auth, **settings)
    own = _certificates() if proxy.scheme == "https" else None
    return httpcore.HTTPProxy(proxy_url=address, proxy_auth=auth, proxy_ssl_context=own, **settings)


def _certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        where = " or ".join(names) or "certifi"
        raise UserError(f"the certificates of {where} cannot be read ({error}); correct it.") from None


# -- a deadline for all of a request -----------------------------------------------------------------------------------


def _left(timeout: float | None, late: type[Exception]) -> float:
    """Seconds that a step of this thread's request may take."""
    left = _now.deadline - time.monotonic()
    if left <= 0:
        raise late("the deadline has passed")
    return left if timeout is None else min(timeout, left)


class _Timed(httpcore.NetworkBackend):
    """Connections whose every step ends at the deadline of the request that takes it."""

    def __init__(self) -> None:
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from None
        trouble: Exception = httpcore.ConnectError(f"{host} has no address")
        for *_, address in addresses:
            left = _left(timeout, httpcore.ConnectTimeout)
            try:
                stream = self._plain.connect_tcp(str(address[0]), port, left, local_address, socket_options)
                return _TimedStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                trouble = error
        raise trouble


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), SLICE):
            self._stream.write(buffer[start : start + SLICE], _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
