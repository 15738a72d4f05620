"""Proxies, deadlines and replies that no library of servers would send, byte by byte over real sockets."""

import contextlib
import gzip
import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import httpcore
import pytest

from tuition.errors import UserError
from tuition.teachers import BadAnswer, NotCharged, Refused, request
from tuition.teachers import http as policies
from tuition.teachers.http import Client

KEY = "sk-proj-Zq8-x1-Nothing-But-ASecret"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("A_KEY", KEY)


class Peer:
    """Listens, reads one request a connection, and does with the connection what `behave` says."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.received: list[bytes] = []
        self.behave: Callable[[socket.socket], None] = lambda connection: None
        self.over, self.later = threading.Event(), threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            found = b""
            while b"\r\n\r\n" not in found or len(found.partition(b"\r\n\r\n")[2]) < self.length(found):
                if not (part := connection.recv(65536)):
                    return
                found += part
            self.received.append(found)
            self.behave(connection)

    @staticmethod
    def length(head: bytes) -> int:
        """Of the body; one of more than a megabyte is not read."""
        found = re.search(rb"(?i)content-length: (\d+)", head)
        return int(found[1]) if found and int(found[1]) < 10**6 else 0

    def says(self, head: str, body: bytes = b"", *, announced: int | None = None) -> None:
        length = len(body) if announced is None else announced
        data = f"HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n".encode() + body
        self.behave = lambda connection: connection.sendall(data)

    def drips(self, beginning: bytes, drop: bytes) -> None:
        """A beginning, then drops without end; after 20 of them, an hour has passed on the client's clock."""

        def behave(connection: socket.socket) -> None:
            connection.sendall(beginning)
            drops = 0
            while not self.over.wait(0.005):
                connection.sendall(drop)
                drops += 1
                if drops == 20:
                    self.later.set()

        self.behave = behave


@pytest.fixture
def peer(monkeypatch) -> Iterator[Peer]:
    running = Peer()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * running.later.is_set())
    monkeypatch.setattr(request, "time", clock)
    yield running
    running.over.set()
    running.listener.close()


def ask(url: str, timeout: float = 30.0, **settings: str):
    return Client(url, timeout=timeout, **settings).post("/ask", {"a": 1}, inputs=1)


# -- one deadline for all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"),
    ],
    ids=["body", "chunks", "headers", "continue", "hints"],
)
def test_a_reply_that_never_ends_is_of_unknown_fate_at_the_deadline(peer, beginning, drop):
    """Each part arrives well within the timeout; all of them never do."""
    peer.drips(beginning, drop)
    with pytest.raises(TimeoutError, match="within 60 s"):
        ask(peer.url, timeout=60)


def test_an_error_that_never_ends_is_an_error(peer):
    peer.drips(b"HTTP/1.1 429 Slow Down\r\nContent-Length: 1000000\r\n\r\n", b" ")
    with pytest.raises(NotCharged, match="status 429") as refused:
        ask(peer.url, timeout=60)
    assert refused.value.retry


def test_a_server_that_does_not_read(peer, monkeypatch):
    """The request is larger than what sockets hold, and its fate is unknown once a part of it was sent."""
    peer.behave = lambda connection: peer.over.wait(60)
    monkeypatch.setattr(request, "_left", lambda timeout, late: 0.3 if late is httpcore.WriteTimeout else 60.0)
    with pytest.raises(TimeoutError):
        Client(peer.url).post("/", {"a": "x" * (64 << 20)}, inputs=1)


# -- bodies ------------------------------------------------------------------------------------------------------------


def bomb(size: int) -> bytes:
    return packed(b" " * size)


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # the names of the tests hold it


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ("Content-Encoding: gzip", bomb(3 << 20), "larger than 2 MiB"),
        ("X: y", b" " * (3 << 20), "larger than 2 MiB"),
        ("Content-Encoding: gzip, gzip", packed(bomb(1 << 20)), "which was not offered"),
        ("Content-Encoding: br", b"\x8b\x00\x80", "which was not offered"),
        ("Content-Encoding: gzip", b"not gzip", "not compressed as it says"),
        ("Content-Encoding: gzip", packed(b"{}" * 999)[:-20], "cut off"),
        ("Content-Encoding: gzip", b"", "cut off"),
    ],
)
def test_bodies_that_cannot_be_read(peer, monkeypatch, headers, body, said):
    """Of a success, it was answered, and is paid; of an error, its status counts all the same."""
    monkeypatch.setattr(policies, "LEAST_BYTES", 1 << 20)
    monkeypatch.setattr(policies, "INPUT_BYTES", 1 << 20)
    peer.says(f"200 OK\r\n{headers}", body)
    with pytest.raises(BadAnswer, match=said):
        ask(peer.url)
    for status, expected in ((429, NotCharged), (400, Refused), (503, NotCharged), (401, NotCharged)):
        peer.says(f"{status} No\r\n{headers}", body)
        with pytest.raises(expected, match=f"status {status}"):
            ask(peer.url)


@pytest.mark.parametrize("pieces", [1, 7, 10_000])
def test_compressed_answers(peer, pieces):
    """Also in several members, with zeros behind, and arriving in any pieces."""
    expected = {"rows": list(range(10_000))}
    text = json.dumps(expected).encode()
    data = gzip.compress(text[:5000]) + gzip.compress(text[5000:])
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: GZip\r\nContent-Length: {len(data)}\r\n\r\n".encode()

    def behave(connection: socket.socket) -> None:
        for start in range(0, len(head + data), max(1, len(head + data) // pieces)):
            connection.sendall((head + data)[start : start + max(1, len(head + data) // pieces)])

    peer.behave = behave
    assert ask(peer.url) == expected


def test_a_bomb_takes_little_memory(peer):
    """40 kB that stand for 1 GiB in 1024 members are cut off at what one input may be answered with."""
    data = b"".join([zlib.compress(b"", 9, 31)] * 10 + [bomb(1 << 20)] * 1024)
    peer.says("200 OK\r\nContent-Encoding: gzip", data)
    with pytest.raises(BadAnswer, match="larger than 20 MiB"):
        ask(peer.url)


@pytest.mark.parametrize(
    "body", [b"\xff\xfe garbage", b"{", b'{"error": {"message": "cut off', b"<html>", b"", b"[" * 10**6]
)
@pytest.mark.parametrize("announced", [None, 10**6 + 1])
def test_a_broken_error_is_an_error(peer, body, announced):
    peer.says("503 Down\r\nContent-Type: text/html; charset=no-such", body, announced=announced)
    with pytest.raises(NotCharged, match="status 503") as refused:
        ask(peer.url)
    assert refused.value.retry


@pytest.mark.parametrize("reply", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_what_is_not_a_reply_is_of_unknown_fate(peer, reply):
    peer.behave = lambda connection: connection.sendall(reply)
    with pytest.raises(ConnectionError, match="was cut") as cut:
        ask(peer.url)
    assert str(cut.value).isprintable()


def test_hosts_are_named_as_they_should_be(peer, monkeypatch):
    """Also IPv6 addresses, and names that are not ASCII; all of them are this machine here."""
    peer.says("200 OK", b"{}")
    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **kinds: found("127.0.0.1", *rest, **kinds))
    for host, named in (("[::1]", "[::1]"), ("models.example", "models.example"), ("Müller.example", "xn--mller-kva")):
        ask(f"http://{host}:{peer.port}")
        assert f"\r\nHost: {named}".encode() in peer.received[-1]


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_request_without_a_key_goes_through_the_proxy(peer, monkeypatch, variable):
    monkeypatch.setenv(variable, peer.url)
    peer.says("200 OK", b"{}")
    assert ask("http://models.example/v1") == {}
    assert peer.received[0].startswith(b"POST http://models.example/v1/ask HTTP/1.1\r\n")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("target", ["http://127.0.0.1:1/v1", "http://localhost:1", "http://[::1]:1"])
def test_a_key_does_not_go_through_a_proxy_unencrypted(peer, monkeypatch, scheme, target):
    monkeypatch.setenv("HTTP_PROXY", peer.url.replace("http", scheme))
    with pytest.raises(NotCharged, match="through the proxy of the environment; name") as no:
        ask(target, key_variable="A_KEY")
    assert not no.value.retry
    assert peer.received == []


@pytest.mark.parametrize("excepted", ["127.0.0.1", "localhost,127.0.0.1", "*"])
def test_what_is_in_no_proxy_is_reached_directly(peer, monkeypatch, excepted):
    monkeypatch.setenv("HTTP_PROXY", "http://user:hunter2@proxy.invalid:1")
    monkeypatch.setenv("NO_PROXY", excepted)
    peer.says("200 OK", b"{}")
    assert ask(peer.url, key_variable="A_KEY") == {}
    assert f"Authorization: Bearer {KEY}".encode() in peer.received[0]


@pytest.mark.parametrize(("status", "retry"), [("407 Proxy Authentication Required", False), ("502 Bad Gateway", True)])
def test_a_proxy_that_refuses_a_tunnel_sees_no_key(peer, monkeypatch, status, retry):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@127.0.0.1:{peer.port}")
    peer.says(status)
    with pytest.raises(NotCharged, match=f"cannot be reached: {status}") as refused:
        ask("https://models.example/v1", key_variable="A_KEY")
    assert refused.value.retry == retry
    assert "hunter2" not in str(refused.value)
    assert peer.received[0].startswith(b"CONNECT models.example:443")
    assert KEY.encode() not in b"".join(peer.received)


@pytest.mark.parametrize("reply", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nnot TLS"])
def test_a_proxy_that_gives_no_tunnel_costs_nothing(peer, monkeypatch, reply):
    monkeypatch.setenv("HTTPS_PROXY", peer.url)
    peer.behave = lambda connection: connection.sendall(reply)
    with pytest.raises(NotCharged, match="cannot be reached"):
        ask("https://models.example/v1", key_variable="A_KEY")


def test_a_proxy_that_says_nothing_costs_nothing(peer, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", peer.url)
    peer.behave = lambda connection: peer.over.wait(60)
    with pytest.raises(NotCharged, match="cannot be reached"):
        ask("https://models.example/v1", timeout=0.3, key_variable="A_KEY")


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
@pytest.mark.parametrize(
    "proxy",
    [
        "socks://user:hunter2@127.0.0.1:1",
        "socks4://user:hunter2@127.0.0.1:1",
        "socks5://user:hunter2@127.0.0.1:1",
        "socks5h://user:hunter2@127.0.0.1:1",
        "ftp://user:hunter2@127.0.0.1:1",
        "http://user:hunter2@127.0.0.1:port",
        "http://user:hunter2@127.0.0.1:99999",
        "http://user:hunter2@:80",
        "http://",
        "://",
        "http://[::1",
        "user:hunter2@[",
        "http://\x01hunter2",
    ],
)
def test_proxies_that_cannot_be_used_are_a_sentence(monkeypatch, variable, proxy):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no socksio
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(UserError, match="the proxy in HTTPS_PROXY or ALL_PROXY") as refused:
        Client("https://models.example/v1")
    assert "hunter2" not in str(refused.value)
    assert "NO_PROXY" in str(refused.value)
    monkeypatch.setenv("NO_PROXY", "models.example")
    Client("https://models.example/v1")


def test_certificates_that_cannot_be_read(monkeypatch, tmp_path):
    for path in (tmp_path / "none.pem", tmp_path):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(UserError, match="certificates of SSL_CERT_FILE"):
            Client("https://models.example/v1")
