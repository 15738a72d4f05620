"""What a server may do, what it may cost, and where its key may be seen."""

import logging
import socket
import ssl
import subprocess
import threading
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpcore
import pytest

from tuition.errors import UserError
from tuition.teachers import BadAnswer, NotCharged, Refused, request
from tuition.teachers.http import Client, Pace, plain_url, retry_after

KEY = "sk-proj-Zq8/x1+Nothing&But=ASecret"


@pytest.fixture
def client(server, monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)
    return Client(server.url, key_variable="A_KEY")


def test_json_there_and_back_with_the_key(server, client, reply):
    server.reply = lambda request: reply([request.body, request.path])
    assert client.post("/ask", {"a": [1.5, "ü"]}, inputs=1) == [{"a": [1.5, "ü"]}, "/ask"]
    assert client.get("/look") == [None, "/look"]
    assert [request.headers["authorization"] for request in server.requests] == [f"Bearer {KEY}"] * 2


def test_no_key_no_header(server, client, reply, monkeypatch):
    server.reply = lambda request: reply({})
    monkeypatch.setenv("A_KEY", "")
    client.get("/")
    Client(server.url).get("/")
    assert not any("authorization" in request.headers for request in server.requests)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_refused_for_now(server, client, reply, status):
    server.reply = lambda request: reply({"error": {"message": "too  busy"}}, status)
    with pytest.raises(NotCharged, match=f"refused with status {status}: too busy") as refused:
        client.post("/", {}, inputs=1)
    assert refused.value.retry
    assert refused.value.retry_after is None


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 422, 431, 451])
def test_permanently_refused(server, client, reply, status):
    server.reply = lambda request: reply({"detail": "this will not do"}, status)
    with pytest.raises(NotCharged, match=f"status {status}: this will not do") as refused:
        client.post("/", {}, inputs=1)
    assert not refused.value.retry
    assert isinstance(refused.value, Refused) == (status in (400, 413, 422))
    assert ("A_KEY" in str(refused.value)) == (status in (401, 403))


def test_redirects_are_not_followed(server, client, reply):
    server.reply = lambda request: reply({}, 307, (("Location", "http://localhost:1/elsewhere"),))
    with pytest.raises(NotCharged, match="redirects") as refused:
        client.post("/", {}, inputs=1)
    assert not refused.value.retry
    assert len(server.requests) == 1


@pytest.mark.parametrize("seconds", [0, 7, 30.5])
def test_retry_after_in_seconds(server, client, reply, seconds):
    server.reply = lambda request: reply({}, 429, (("Retry-After", str(seconds)),))
    with pytest.raises(NotCharged) as refused:
        client.post("/", {}, inputs=1)
    assert refused.value.retry_after == seconds


def test_retry_after_forms():
    now = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    soon = now + timedelta(seconds=90)
    assert retry_after(format_datetime(soon, usegmt=True), now) == 90
    assert retry_after(format_datetime(soon.replace(tzinfo=None)), now) == 90  # -0000 is UTC as well
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("-3") == 0
    for nothing in (None, "", "soon", "nan", "inf", "Wed, 99 Oct 2015", "Wed, 21 Oct 99999 07:28:00 GMT"):
        assert retry_after(nothing) is None


def test_a_day_is_not_waited_for(server, client, reply):
    server.reply = lambda request: reply({}, 429, (("Retry-After", "86400"),))
    with pytest.raises(NotCharged, match="asks to wait 86400 s") as refused:
        client.post("/", {}, inputs=1)
    assert not refused.value.retry


def test_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for address in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid"):
        with pytest.raises(NotCharged, match="cannot be reached") as refused:
            Client(address).post("/", {}, inputs=1)
        assert not refused.value.retry  # waiting helps nobody


def test_a_server_that_was_there_may_come_back(server, reply):
    with type(server)() as other:
        other.reply = lambda request: reply({}, headers=(("Connection", "close"),))
        thread = threading.Thread(target=other.handle_request)
        thread.start()
        client = Client(other.url)
        assert client.post("/", {}, inputs=1) == {}
        thread.join()
    with pytest.raises(NotCharged, match="cannot be reached") as refused:
        client.post("/", {}, inputs=1)
    assert refused.value.retry


def test_an_answer_that_comes_too_late_or_not_complete_is_of_unknown_fate(server, client, reply, monkeypatch):
    # Only reading is short of time, so that a busy machine does not end the request before it is sent.
    monkeypatch.setattr(request, "_left", lambda timeout, late: 0.2 if late is httpcore.ReadTimeout else 60.0)
    gave_up = threading.Event()
    server.reply = lambda request: gave_up.wait(60) and reply({})
    with pytest.raises(TimeoutError, match="within 60 s"):
        client.post("/", {}, inputs=1)
    gave_up.set()
    monkeypatch.undo()
    server.reply = lambda request: reply(b"{", headers=(("Content-Length", "100"),))
    with pytest.raises(ConnectionError, match="was cut"):
        client.post("/", {}, inputs=1)


def test_no_json(server, client, reply):
    for body, said in (
        (b"<html>welcome</html>", "a page, not JSON"),
        (b"", "answered with nothing"),
        (b"\xef\xbb\xbf \n", "answered with nothing"),
        (b'data: {"choices": []}\n\n', "a stream of events"),
        (b'{"data": [', "not all of it"),
        (b"\x80\x81", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 10_000, "not JSON"),
    ):
        server.reply = lambda request, body=body: reply(body)
        with pytest.raises(BadAnswer, match=said) as bad:
            client.post("/", {}, inputs=1)
        assert len(str(bad.value)) < 200


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_json_in_other_encodings(server, client, reply, encoding):
    server.reply = lambda request: reply('{"a": "ü"}'.encode(encoding), headers=(("Content-Type", "text/html"),))
    assert client.post("/", {}, inputs=1) == {"a": "ü"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_cannot_say_is_not_sent(server, client, value):
    with pytest.raises(Refused, match="which"):
        client.post("/", {"a": [value]}, inputs=1)
    assert server.requests == []


def test_certificates_are_verified(tmp_path):
    """A server that nobody vouches for sees no request."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days"]
    made += ["1", "-subj", "/CN=localhost", "-keyout", f"{tmp_path}/key.pem", "-out", f"{tmp_path}/cert.pem"]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{tmp_path}/cert.pem", f"{tmp_path}/key.pem")
    failures: list[ssl.SSLError] = []

    def accept_one(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                context.wrap_socket(connection, server_side=True)
            except ssl.SSLError as error:
                failures.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept_one, args=(listener,))
        thread.start()
        with pytest.raises(NotCharged, match="CERTIFICATE_VERIFY_FAILED") as refused:
            Client(f"https://localhost:{listener.getsockname()[1]}").get("/")
        thread.join()
    assert not refused.value.retry
    assert "UNKNOWN_CA" in str(failures[0])


# -- the key -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 429, 500])
@pytest.mark.parametrize(
    "said", [KEY, KEY[3:20], "sk-proj-Zq8%2Fx1%2BNothing%26But%3DASecret", "x" * 290 + KEY], ids=range(4)
)
def test_a_server_that_repeats_the_key_is_not_quoted(server, client, reply, caplog, status, said):
    caplog.set_level(logging.DEBUG)
    server.reply = lambda request: reply({"error": {"message": f"wrong key: {said}"}}, status)
    with pytest.raises(NotCharged) as refused:
        client.post("/", {}, inputs=1)
    shown = "".join(traceback.format_exception(refused.value)) + caplog.text + repr(client) + repr(vars(client))
    for part in ("Nothing", "ASecret", "Zq8"):
        assert part not in shown


def test_a_key_that_no_header_takes_is_not_shown(server, client, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-first\nsk-second")
    with pytest.raises(NotCharged, match="characters that no key has") as refused:
        client.get("/")
    assert "sk-first" not in "".join(traceback.format_exception(refused.value))
    assert server.requests == []


def test_the_key_does_not_travel_in_the_clear(monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)
    with pytest.raises(NotCharged, match=r"unencrypted to models\.example") as refused:
        Client("http://models.example/v1", key_variable="A_KEY").get("/")
    assert not refused.value.retry


def test_a_short_key_hides_only_itself(server, reply, monkeypatch):
    """Local servers are given keys such as "x", which most messages hold in a word."""
    monkeypatch.setenv("A_KEY", "x")
    client = Client(server.url, key_variable="A_KEY")
    server.reply = lambda request: reply({"error": "maximum exceeded"}, 400)
    with pytest.raises(Refused, match="maximum exceeded"):
        client.post("/", {}, inputs=1)
    server.reply = lambda request: reply({"error": "wrong key: x"}, 401)
    with pytest.raises(NotCharged, match="repeats the key"):
        client.post("/", {}, inputs=1)


def test_a_key_for_a_variables_name_is_not_repeated():
    with pytest.raises(UserError, match="name the environment variable") as refused:
        Client("https://models.example", key_variable=KEY)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["https://me:hunter2@host/v1", "https://hunter2@host", "https://host/v1?key=hunter2", "https://host/#hunter2"],
)
def test_addresses_with_secrets_are_refused_and_not_repeated(url):
    with pytest.raises(UserError, match="no user, password, query") as refused:
        Client(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_limits_that_are_none(limit):
    with pytest.raises(UserError, match="more than 0"):
        Client("https://host", timeout=limit)


@pytest.mark.parametrize(
    "url",
    [
        "http://ho st",
        "http://host:99999",
        "http://\x1b[31m",
        "",
        "host/v1",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://host:0",
    ],
)
def test_no_addresses(url):
    with pytest.raises(UserError, match="address is http"):
        Client(url)


def test_one_address_for_several_ways_to_write_it():
    assert plain_url(" HTTPS://Host:8000/v1/ ") == plain_url("https://host:8000/v1") == "https://host:8000/v1"


# -- the pace ----------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes where somebody waits, and nowhere else."""

    def __init__(self):
        self.time, self.meanwhile = 1000.0, []

    def now(self):
        return self.time

    def pause(self, lock, seconds):
        self.time += seconds / 2 if self.meanwhile else seconds  # woken early, as a condition may be
        for happening in self.meanwhile:
            happening()
        self.meanwhile = []

    def pace(self, requests, inputs):
        return Pace(requests, inputs, now=self.now, pause=self.pause)


@pytest.mark.parametrize(("requests", "inputs"), [(1200, None), (None, 6000), (1200, 6000)])
def test_threads_share_one_pace(requests, inputs):
    """20 requests of 5 inputs a second, from five threads at once: 0.05 s between any two."""
    clock = Clock()
    pace, sent = clock.pace(requests, inputs), []

    def ask() -> None:
        for _ in range(3):
            pace.wait(5)
            with pace._lock:
                sent.append(clock.time)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 15
    assert clock.time - 1000 == pytest.approx(14 * 0.05)


def test_what_one_thread_is_told_holds_for_all(server, client, reply):
    """A request that waits for its turn when another is told to wait does not go out before."""
    clock = Clock()
    client._pace = clock.pace(None, None)
    server.reply = lambda request: reply({}, 429, (("Retry-After", "40"),)) if request.path == "/first" else reply({})
    with pytest.raises(NotCharged):
        client.post("/first", {}, inputs=1)
    assert clock.time == 1000
    client.post("/second", {}, inputs=1)
    assert clock.time == pytest.approx(1040)


def test_a_pause_reaches_those_who_wait_already():
    clock = Clock()
    pace = clock.pace(300, None)  # every 0.2 s
    pace.wait(1)
    clock.meanwhile.append(lambda: pace.hold(0.5))  # 0.1 s later
    pace.wait(1)
    assert clock.time == pytest.approx(1000.6)
