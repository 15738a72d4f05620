"""The store against a paid teacher that fails in every way, and askers that are killed at random moments.

    python tests/store/faults.py --runs 300 [--postgresql] [--seed 0]

A teacher in its own process answers over HTTP and logs every call it bills; it permanently refuses some inputs. In each
run up to four processes ask it through one store. In half of the stores they are killed with SIGKILL at random moments,
in a quarter they are told to stop with SIGTERM, and in a third of all, where these are files, some of their writes to
the store fail with ENOSPC or EIO. After each run the books are compared with the teacher's log, and every stored answer
with what the teacher answers. The first difference ends the program with an error.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import http.client
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
import torch

from tuition.data import Pool, from_tensors
from tuition.errors import UserError
from tuition.store import BudgetError, ResponseStore, Stopped, TeacherError, verify
from tuition.teachers import NotCharged, Refused, from_callable

UNIVERSE = 1000  # different inputs
COLUMNS = 5
STOPPED, TERMINATED = 130, 143  # exit codes after Ctrl-C, and after SIGTERM
TOO_LONG = frozenset(range(7, UNIVERSE, 60))  # inputs that are permanently refused, with 400
PATIENCE = 1.0  # seconds an asker waits for an answer
# What becomes of a request, how often, and whether the teacher bills it.
FATES = {
    "answered": (0.66, True),
    "slow": (0.105, True),
    "429": (0.06, False),
    "503": (0.06, False),
    "dropped": (0.02, False),
    "cut": (0.03, True),
    "too late": (0.005, True),
    "wrong rows": (0.02, True),
    "not JSON": (0.02, True),
    "NaN": (0.02, True),
}
REFUSED = ("429", "503", "too long", "no connection")
UNKNOWN = ("dropped", "cut", "too late", "not JSON")
FINGERPRINT = "the teacher behind HTTP"

REPORT = (
    *("runs", "stores", "processes", "killed", "requests in flight when killed", "calls in flight when killed"),
    *("told to stop", "writes that failed", "requests", *FATES, "too long", "no connection"),
    *("billed", "paid", "unknown", "failed", "served", "stored"),
)


def truth(number: int) -> list[float]:
    """What the teacher answers to an input."""
    return [math.sin(number * (column + 1)) for column in range(COLUMNS)]


# -- the teacher's process ---------------------------------------------------------------------------------------------


class Desk(ThreadingHTTPServer):
    """The teacher. GET says how many requests are open; it is accepted after all that came before it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, log: Path, seed: int, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.lock, self.open, self.random = threading.Lock(), 0, random.Random(seed)

    def draw(self, fates: dict[str, tuple[float, bool]], question: dict[str, Any]) -> str:
        """What becomes of a request; it is logged before anything of it is answered."""
        with self.lock:
            fate = self.random.choices(list(fates), [weight for weight, _ in fates.values()])[0]
            if fates is FATES and TOO_LONG & set(question["inputs"]):
                fate = "too long"
            event = question | {"fate": fate, "billed": fate in fates and fates[fate][1]}
            os.write(self.log, json.dumps(event).encode() + b"\n")
        return fate

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self.open += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        super().process_request_thread(request, client_address)
        with self.lock:
            self.open -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Askers that are killed leave broken connections: expected, and logged as billed before."""


class Handler(BaseHTTPRequestHandler):
    server: Desk

    def log_message(self, *arguments: Any) -> None:
        """The log that counts is written in do_POST."""

    def do_GET(self) -> None:
        self.reply(200, {"open": self.server.open - 1})

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # its asker was killed while sending
            return
        question = json.loads(body)
        fate = self.server.draw(FATES, question)
        rows = [truth(number) for number in question["inputs"]]
        if fate == "too long":
            return self.reply(400, {})
        if fate in ("429", "503"):
            return self.reply(int(fate), {}, {"Retry-After": "0.02"} if fate == "429" else {})
        if fate == "dropped":
            return self.hang_up()
        if fate == "slow":
            time.sleep(0.1)
        if fate == "too late":
            time.sleep(PATIENCE * 1.5)
        if fate == "wrong rows":
            rows = rows[1:] if len(rows) > 1 else rows * 2
        if fate == "NaN":
            rows[0][0] = math.nan
        text = json.dumps({"logits": rows})
        if fate == "cut":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n" + text[:20].encode())
            return self.hang_up()
        self.reply(200, text[:-3] if fate == "not JSON" else text)

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def serve(log: Path, seed: int, handler: type[Handler], port: Any) -> None:
    desk = Desk(log, seed, handler)
    port.send(desk.server_address[1])
    desk.serve_forever(poll_interval=0.05)


# -- an asker's process ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errand:
    """What one asking process is told."""

    asker: str
    store: str
    port: int
    folder: Path
    seed: int
    budget: int
    failing: bool = False  # whether some of its writes fail


def pool_of(numbers: list[int]) -> Pool:
    return from_tensors(torch.tensor(numbers, dtype=torch.float32).unsqueeze(1))


def note(folder: Path, event: dict[str, Any]) -> None:
    """What only the asker can know."""
    log = os.open(folder / "askers.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, json.dumps(event).encode() + b"\n")
    os.close(log)


def teacher_of(errand: Errand) -> Any:
    chance = random.Random(errand.seed)

    def ask(inputs: torch.Tensor) -> torch.Tensor:
        about = {"id": uuid.uuid4().hex, "asker": errand.asker, "store": errand.store}
        question = about | {"inputs": [int(value) for value in inputs[:, 0]]}
        port = 1 if chance.random() < 0.02 else errand.port  # nobody listens on port 1
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("POST", "/", json.dumps(question))
            reply = connection.getresponse()
            if reply.status == 400:
                raise Refused("too long")
            if reply.status != 200:
                after = reply.headers["Retry-After"]
                raise NotCharged(f"status {reply.status}", retry_after=None if after is None else float(after))
            return torch.tensor(json.loads(reply.read())["logits"])
        except ConnectionRefusedError as error:
            note(errand.folder, question | {"fate": "no connection"})
            raise NotCharged("connection refused", retry_after=0.02) from error
        except TimeoutError:  # the teacher may not know that its answer came too late
            note(errand.folder, question | {"fate": "too late"})
            raise
        finally:
            connection.close()

    return from_callable(ask, fingerprint=FINGERPRINT, name="teacher", code="")


def run_errand(errand: Errand, started: Any) -> None:
    """Ask about a random part of the inputs until all is answered or the budget is used up; then exit with 0."""
    from tuition.store import asking

    torch.set_num_threads(1)
    asking.FIRST_PAUSE = 0.02
    chance = random.Random(errand.seed)
    numbers = chance.choices(range(UNIVERSE), k=chance.randint(20, 250))  # some of them twice
    teacher, told = teacher_of(errand), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    started.send(True)
    while True:
        try:
            if errand.failing:
                fail_some_writes(chance, Path(errand.store).name)
            transfer = ResponseStore(errand.store).ask(
                teacher,
                pool_of(numbers),
                budget=errand.budget,
                batch_size=int(2 ** chance.uniform(0, 6.03)),  # 1 to 65
                concurrency=chance.randint(1, 4),
                stopping=told.is_set,
            )
        except TeacherError:
            continue
        except BudgetError:
            break
        except Stopped:
            sys.exit(TERMINATED)
        except UserError as error:
            if not errand.failing or "cannot be used" not in str(error):
                raise
            continue
        finally:
            if errand.failing:
                failed = preloaded().io_faults_failed()
                note(errand.folder, {"store": errand.store, "fate": "writes that failed", "inputs": [0] * failed})
        answered = [number for number in numbers if number not in TOO_LONG]
        left_out = {numbers[refusal.row] for refusal in transfer.refused}
        assert left_out == set(numbers) - set(answered), f"refused {transfer.refused} of {numbers}"
        expected = torch.tensor([truth(number) for number in answered])
        assert torch.equal(transfer.responses["logits"], expected), "an answer was altered or misplaced"
        break


def preloaded() -> Any:
    """The library of `io_faults.c`, where this process was started with it."""
    return ctypes.CDLL(os.environ["LD_PRELOAD"])


def fail_some_writes(chance: random.Random, name: str) -> None:
    """Let a few of the next writes to files of this name fail: the store, its log, its spill files."""
    error = chance.choice([errno.ENOSPC, errno.EIO])
    preloaded().io_faults(chance.randint(0, 150), chance.choice([1, 1, 3, 20]), error, name.encode())


def compiled(folder: Path) -> Path | None:
    """The library that lets writes fail; None without a C compiler."""
    compiler, library = shutil.which("cc"), folder / "io_faults.so"
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    source = Path(__file__).with_name("io_faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


# -- the comparison ----------------------------------------------------------------------------------------------------


@dataclass
class Books:
    """One store, the teacher's log about it, and what was found in it before."""

    refused: ClassVar[tuple[str, ...]] = REFUSED
    unknown: ClassVar[tuple[str, ...]] = UNKNOWN
    output: ClassVar[str] = "logits"

    url: str
    folder: Path
    budget: int
    port: int
    failing: bool = False  # whether some writes fail
    stored: frozenset[int] = frozenset()
    seen: int = 0
    left: Counter[str] = field(default_factory=Counter)

    @property
    def fingerprint(self) -> str:
        return FINGERPRINT

    def pool(self, numbers: list[int]) -> Pool:
        return pool_of(numbers)

    def events(self, log: str) -> list[dict[str, Any]]:
        path = self.folder / log
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["store"] == self.url]

    def compare(self, killed: set[str]) -> Counter[str]:
        """Compare the books with the teacher's log; exactly, where no asker was killed."""
        events, noted = self.events("log.jsonl"), self.events("askers.jsonl")
        late = {event["id"] for event in noted if event["fate"] == "too late"}
        left = self.left_in_flight()
        accounts = ResponseStore(self.url).accounts()
        calls = Counter[str]()
        for event in events:
            if event["id"] in late:
                event["fate"] = "too late"
            calls[event["fate"]] += len(event["inputs"])
            calls["billed"] += len(event["inputs"]) * event["billed"]
        calls["writes that failed"] = sum(len(e["inputs"]) for e in noted if e["fate"] == "writes that failed")
        calls["no connection"] = sum(len(event["inputs"]) for event in noted if event["fate"] == "no connection")
        unanswered = sum(calls[fate] for fate in self.unknown)
        refused = sum(calls[fate] for fate in self.refused)

        require(accounts.paid <= self.budget, f"paid {accounts} over the budget of {self.budget}")
        require(calls["billed"] <= accounts.paid, f"billed {calls}, but paid {accounts}")
        require(
            accounts.paid - accounts.unknown <= calls["billed"], f"answered more than was billed: {calls}, {accounts}"
        )
        require(accounts.failed <= refused, f"failed {accounts}, but refused {refused}")
        if not killed:  # also where writes failed, or askers were told to stop
            # A reservation whose write failed may be on the disk all the same: never sent, and counted as paid.
            never_sent = accounts.unknown - unanswered
            require(
                never_sent == 0 or (self.failing and never_sent > 0), f"unanswered {unanswered}, unknown {accounts}"
            )
            paid = calls["billed"] + calls["dropped"] + never_sent
            require(accounts.paid == paid, f"billed {calls}, paid {accounts}")
            require(accounts.failed == refused, f"refused {refused}, failed {accounts}")
        self.no_call_twice(events, killed)

        stored = self.read()
        require(self.stored <= stored, f"lost {sorted(self.stored - stored)}")
        checked = verify(ResponseStore(self.url))
        require(checked.responses == checked.intact == len(stored) and not checked.problems, f"damaged: {checked}")
        self.stored, self.seen = stored, len(events)
        self.left += left
        require(not TOO_LONG & stored or self.refused is not REFUSED, "an input was refused and answered")
        return calls + Counter(accounts.as_dict()) + Counter(stored=len(stored), requests=len(events)) + self.left

    def left_in_flight(self) -> Counter[str]:
        """Reservations that killed askers left behind."""
        from tuition.store.database import flights

        with ResponseStore(self.url).database.read() as connection:
            sizes = list(connection.scalars(sa.select(flights.c.calls)))
        return Counter({"requests in flight when killed": len(sizes), "calls in flight when killed": sum(sizes)})

    def no_call_twice(self, events: list[dict[str, Any]], killed: set[str]) -> None:
        """What was stored, or answered well to an asker that lived on, is never sent again."""
        done = set(self.stored)
        for event in events[self.seen :]:
            require(not done & set(event["inputs"]), f"sent twice: {event}")
            if event["fate"] in ("answered", "slow") and event["asker"] not in killed:
                done |= set(event["inputs"])

    def read(self) -> frozenset[int]:
        """The inputs whose answers are stored, each compared with the truth."""
        from tuition.store.reading import read
        from tuition.store.responses import identify, located

        pool = self.pool(list(range(UNIVERSE)))
        with ResponseStore(self.url).database.read() as connection:
            teacher_id = identify(connection, "teacher", self.fingerprint)
            stored = located(connection, teacher_id, pool.digests) if teacher_id else {}
            numbers = [number for number, digest in enumerate(pool.digests) if digest in stored]
            if numbers:
                found = read(connection, teacher_id, [pool.digests[number] for number in numbers])[self.output]
                require(
                    torch.equal(found, torch.tensor([truth(number) for number in numbers])), "an answer was altered"
                )
        return frozenset(numbers)


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"FAILED: {otherwise}")


def wait_until_idle(port: int) -> None:
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        if json.loads(connection.getresponse().read())["open"] == 0:
            return
        time.sleep(0.02)


def start(context: Any, run: Callable[[Errand, Any], None], errand: Errand) -> Any:
    """A process about to open its store."""
    ours, theirs = context.Pipe()
    asker = context.Process(target=run, args=(errand, theirs))
    asker.start()
    ours.recv()
    return asker


def trial(
    runs: int,
    runs_a_store: int,
    seed: int,
    folder: Path,
    new_store: Callable[[int], str],
    *,
    handler: type[Handler] = Handler,
    run_errand: Callable[[Errand, Any], None] = run_errand,
    keep: type[Books] = Books,
    signals: Sequence[int] = (signal.SIGKILL,),
    library: Path | None = None,
) -> Counter[str]:
    """All runs against stores from `new_store`; returns what happened in all."""
    context = multiprocessing.get_context("forkserver")
    if library is not None:
        os.environ["LD_PRELOAD"] = str(library)  # of the server of forks, and so of all askers
    # What an asker imports, so that it is killed while it asks; packages that are not installed are left out.
    dialects = ["sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg", "psycopg"]
    of_store = [f"tuition.store.{name}" for name in ("asking", "class_columns", "maintenance", "stepwise")]
    context.set_forkserver_preload(["torch", *dialects, *of_store])
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(folder / "log.jsonl", seed, handler, theirs), daemon=True)
    server.start()
    port = ours.recv()
    chance, total = random.Random(seed), Counter[str]()
    try:
        for number in range(0, runs, runs_a_store):
            group = number // runs_a_store
            kills, stops = group % 4 != 0, group % 4 == 3 and signals == (signal.SIGKILL,)
            failing = library is not None and group % 3 == 0
            # Sometimes the budget is too small for all, sometimes it leaves room for what is lost.
            budget = chance.choice([UNIVERSE // 2, UNIVERSE, UNIVERSE * 8])
            books = keep(new_store(number), folder, budget, port, failing)
            killed: set[str] = set()
            happened = Counter[str]()
            for run in range(number, min(runs, number + runs_a_store)):
                errands = [
                    Errand(f"{run}-{i}", books.url, port, folder, chance.getrandbits(32), books.budget, failing)
                    for i in range(chance.choice([1, 4, 4]))
                ]
                askers = [start(context, run_errand, errand) for errand in errands]
                if kills:
                    now = time.monotonic()
                    for moment, asker in sorted(
                        ((now + chance.uniform(0, 0.8), a) for a in askers), key=lambda pair: pair[0]
                    ):
                        time.sleep(max(0.0, moment - time.monotonic()))
                        if asker.is_alive():
                            os.kill(asker.pid, signal.SIGTERM if stops else chance.choice(signals))
                for errand, asker in zip(errands, askers, strict=True):
                    asker.join(120)
                    endings = (0, -signal.SIGKILL, STOPPED, TERMINATED)
                    require(asker.exitcode in endings, f"exit code {asker.exitcode}")
                    if asker.exitcode in (-signal.SIGKILL, STOPPED):
                        killed.add(errand.asker)
                    total["told to stop"] += asker.exitcode == TERMINATED
                wait_until_idle(port)
                happened = books.compare(killed)
                total["processes"] += len(askers)
            total += happened + Counter(stores=1, killed=len(killed))
    finally:
        server.kill()
        server.join()
    return total + Counter(runs=runs)


def main() -> None:
    from postgresql import create_database, programs, server

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--runs-a-store", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--postgresql",
        nargs="?",
        const="",
        help="not on SQLite files but on this server (a URL with {} for the database), or on one of its own",
    )
    given = parser.parse_args()
    start = time.perf_counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = given.postgresql
        if url == "":
            require(programs() is not None, "PostgreSQL's programs are not installed")
            url = stack.enter_context(server())

        def new_store(number: int) -> str:
            if url is None:
                return f"sqlite:///{folder}/store{number:04d}.db"
            return create_database(url, f"faults-{os.getpid()}-{number}")

        library = compiled(folder) if url is None else None
        os.environ["TUITION_CACHE"] = str(folder / "cache")  # where answers are kept that cannot be beside the store
        total = trial(given.runs, given.runs_a_store, given.seed, folder, new_store, library=library)
    print(f"no difference in {given.runs} runs, {time.perf_counter() - start:.0f} s")
    tell(total, REPORT)


def tell(total: Counter[str], report: Sequence[str]) -> None:
    for what in report:
        print(f"{what:>34}: {total[what]}")


if __name__ == "__main__":
    main()
