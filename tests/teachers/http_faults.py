"""The remote teachers against a server that fails in every way, and askers that are killed and interrupted.

    python tests/teachers/http_faults.py --runs 100 [--seed 0]

As tests/store/faults.py, whose comparison of books and log it uses; but the server speaks OpenAI's protocol for
embeddings or, in every other store, V2, and is asked through `from_openai` or `from_v2`. Each asker has a key of its
own, by which the server knows it; the server repeats the key in its errors, and no file that is written may hold it.
Some inputs are permanently refused: they are left out, and all others answered. The server counts tokens, and the cost
in the books is that of its log, to the last digit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
import faults

from tuition import teachers
from tuition.data import Pool, from_tensors
from tuition.store import BudgetError, ResponseStore, TeacherError, usage

SECRET = "sk-7hKq2ZxW9"  # every key begins with it
FATES = {
    "answered": (0.64, True),
    "slow": (0.10, True),
    "404": (0.02, False),  # permanently refused, so that its words are shown
    "429": (0.04, False),
    "429 until": (0.02, False),
    "500": (0.02, False),
    "503": (0.04, False),
    "200 busy": (0.02, False),  # an error inside a success
    "dropped": (0.02, False),
    "cut": (0.02, True),
    "too late": (0.005, True),
    "wrong rows": (0.02, True),
    "wrong shape": (0.02, True),
    "not JSON": (0.015, True),
    "NaN": (0.02, True),
}
TOO_LONG = frozenset(range(11, faults.UNIVERSE, 60))  # inputs that are permanently refused, with 400
REFUSED = ("404", "429", "429 until", "500", "503", "200 busy", "too long")
METERED = ("answered", "slow", "wrong rows", "wrong shape", "NaN")  # what tells its tokens
TOKENS = 3  # of an input
PRICE, MILLION = Decimal("0.0004"), Decimal("0.02")  # of a call, and of a million tokens
UNKNOWN = ("dropped", "cut", "too late")  # all else that is wrong has arrived
REPORT = tuple(what for what in faults.REPORT if what not in (*faults.FATES, "no connection"))


def pool_of(numbers: list[int]) -> Pool:
    return from_tensors([f"input {number}" for number in numbers])


def speaks_v2(store: str) -> bool:
    """Every other of the stores, and of those whose askers are not killed, which is every fourth."""
    number = int(Path(store).stem.removeprefix("store"))
    return (number + number // 4) % 2 == 1


def teacher_of(store: str, port: int) -> Any:
    settings: dict[str, Any] = {"name": "teacher", "key_variable": "FAULTS_KEY", "timeout": faults.PATIENCE}
    if speaks_v2(store):
        return teachers.from_v2(f"http://127.0.0.1:{port}/v2/models/net", returns="embedding", **settings)
    return teachers.from_openai("net", base_url=f"http://127.0.0.1:{port}/v1", **settings)


class Handler(faults.Handler):
    """Both protocols, over connections that stay open."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:  # noqa: N802
        self.close_connection = True
        if not self.path.startswith("/v2"):
            return super().do_GET()
        x = {"name": "text", "datatype": "BYTES", "shape": [-1, 1]}
        y = {"name": "embedding", "datatype": "FP32", "shape": [-1, faults.COLUMNS]}
        self.reply(200, {"name": "net", "versions": ["1"], "inputs": [x], "outputs": [y]}, {"Connection": "close"})

    def do_POST(self) -> None:  # noqa: N802
        length = int(self.headers["Content-Length"])
        text = self.rfile.read(length)
        if len(text) < length:  # its asker was killed while sending
            self.close_connection = True
            return
        body = json.loads(text)
        v2 = self.path == "/v2/models/net/infer"
        texts = body["inputs"][0]["data"] if v2 else body["input"]
        numbers = [int(text.removeprefix("input ")) for text in texts]
        key = self.headers["Authorization"].removeprefix("Bearer ")
        asker, store = key.removeprefix(SECRET).split("@")
        with self.server.lock:
            name = f"{asker} {numbers}"
            self.seen[name] += 1
            about = {"id": f"{name} {self.seen[name]}", "asker": asker, "store": store, "inputs": numbers}
        fates = {"too long": (1.0, False)} if TOO_LONG & set(numbers) else FATES
        fate = self.server.draw(fates, about)
        if fate == "200 busy":
            return self.reply(200, {"error": {"message": f"overloaded by {key}", "type": "server_error"}})
        if fate == "too long":
            return self.reply(400, {"error": {"message": "maximum context length", "param": "input"}})
        if fate in REFUSED:
            after = {"429": "0.02", "429 until": formatdate(usegmt=True)}
            headers = {"Retry-After": after[fate]} if fate in after else {}
            return self.reply(int(fate[:3]), {"error": {"message": f"no more for {key}"}}, headers)
        if fate == "dropped":
            return self.hang_up()
        if fate in ("slow", "too late"):
            time.sleep(0.1 if fate == "slow" else faults.PATIENCE * 1.5)
        rows = [faults.truth(number) for number in numbers]
        if fate == "wrong rows":
            rows = rows[1:]
        if fate == "wrong shape":
            rows = [row[1:] for row in rows] if v2 else [*rows[:-1], [rows[-1]]]
        if fate == "NaN":
            rows[0][0] = math.nan
        used = {"prompt_tokens": TOKENS * len(numbers), "total_tokens": TOKENS * len(numbers)}
        if v2:
            shape, data = [len(rows), len(rows[0]) if rows else 0], [value for row in rows for value in row]
            output = {"name": "embedding", "datatype": "FP32", "shape": shape, "data": data}
            answer = json.dumps({"model_name": "net", "model_version": "1", "outputs": [output], "usage": used})
        else:
            items = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
            answer = json.dumps({"object": "list", "model": "net", "data": items[::-1], "usage": used})
        if fate == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + answer[:20].encode())
            return self.hang_up()
        self.reply(200, answer[:-3] if fate == "not JSON" else answer)


@dataclass(frozen=True)
class Noting:
    """A teacher whose timeouts are noted, for the server may not know that its answer came too late."""

    teacher: Any
    errand: faults.Errand
    seen: Counter[str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.teacher, name)

    def __call__(self, inputs: list[str]) -> Any:
        numbers = [int(text.removeprefix("input ")) for text in inputs]
        name = f"{self.errand.asker} {numbers}"
        self.seen[name] += 1
        about = {"id": f"{name} {self.seen[name]}", "asker": self.errand.asker, "store": self.errand.store}
        try:
            return self.teacher(inputs)
        except TimeoutError:
            faults.note(self.errand.folder, about | {"inputs": numbers, "fate": "too late"})
            raise


def run_errand(errand: faults.Errand, started: Any) -> None:
    """Ask about a random part of the inputs until all is answered or the budget is used up; then exit with 0."""
    try:
        _run_errand(errand, started)
    except KeyboardInterrupt:
        sys.exit(faults.STOPPED)


def _run_errand(errand: faults.Errand, started: Any) -> None:
    from tuition.store import asking

    started.send(True)
    torch.set_num_threads(1)
    asking.FIRST_PAUSE = 0.02
    os.environ["FAULTS_KEY"] = f"{SECRET}{errand.asker}@{errand.store}"
    chance = random.Random(errand.seed)
    numbers = chance.choices(range(faults.UNIVERSE), k=chance.randint(20, 250))  # some of them twice
    store, teacher = ResponseStore(errand.store), Noting(teacher_of(errand.store, errand.port), errand, Counter())
    while True:
        try:
            transfer = store.ask(
                teacher,
                pool_of(numbers),
                budget=errand.budget,
                batch_size=int(2 ** chance.uniform(0, 6.03)),  # 1 to 65
                concurrency=chance.randint(1, 4),
                cost_per_call=PRICE,
                cost_per_million_tokens=(MILLION, 0),
            )
        except TeacherError:
            with (errand.folder / f"errors-{errand.asker}.txt").open("a") as file:
                traceback.print_exc(file=file)
            continue
        except BudgetError:
            return
        answered = [number for number in numbers if number not in TOO_LONG]
        left_out = {numbers[refusal.row] for refusal in transfer.refused}
        assert left_out == set(numbers) - set(answered), f"refused {transfer.refused} of {numbers}"
        expected = torch.tensor([faults.truth(number) for number in answered])
        assert torch.equal(transfer.responses["embedding"], expected), "an answer was altered or misplaced"
        return


@dataclass
class Books(faults.Books):
    unknown = UNKNOWN
    refused = REFUSED
    output = "embedding"

    @property
    def fingerprint(self) -> str:
        return teacher_of(self.url, self.port).fingerprint

    def pool(self, numbers: list[int]) -> Pool:
        return pool_of(numbers)

    def compare(self, killed: set[str]) -> Counter[str]:
        for path in self.folder.rglob("*"):
            faults.require(not path.is_file() or SECRET.encode() not in path.read_bytes(), f"the key is in {path}")
        calls = super().compare(killed)
        faults.require(not TOO_LONG & self.stored, "an input was refused and answered")
        for found in usage(ResponseStore(self.url)):
            bill, counted = found.bill, TOKENS * sum(calls[fate] for fate in METERED)
            faults.require(
                bill.cost == PRICE * found.accounts.paid + MILLION * bill.input_tokens / 10**6,
                f"a cost of {bill} for {found.accounts}",
            )
            faults.require(bill.input_tokens == TOKENS * bill.metered <= counted, f"counted {counted}, but {bill}")
            faults.require(bool(killed) or bill.input_tokens == counted, f"counted {counted}, but {bill}")
            faults.require(bill.metered <= found.accounts.paid - found.accounts.unknown, f"{bill}, {found.accounts}")
        return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--runs-a-store", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        total = faults.trial(
            given.runs,
            given.runs_a_store,
            given.seed,
            Path(folder),
            lambda number: f"{folder}/store{number // given.runs_a_store}.db",
            handler=Handler,
            run_errand=run_errand,
            keep=Books,
            signals=(signal.SIGKILL, signal.SIGINT),
        )
        errors = sum(path.read_text().count("TeacherError") for path in Path(folder).glob("errors-*.txt"))
    print(f"no difference in {given.runs} runs, {time.perf_counter() - begun:.0f} s, and no key in {errors} errors")
    faults.tell(total, (*REPORT[:7], *FATES, "too long", *REPORT[7:]))


if __name__ == "__main__":
    main()
