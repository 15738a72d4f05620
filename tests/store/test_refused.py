"""Inputs that a teacher refuses: they are found out and left out, all others are answered, and the books are exact."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition import teachers
from tuition.data import Accounts, Pool, from_tensors
from tuition.store import ResponseStore, TeacherError
from tuition.store.pending import Pending
from tuition.store.refusals import sentence
from tuition.teachers import NotCharged, Refused

BAD = 40


class Server:
    """Refuses a request that holds a bad input or more than `most` of them; remembers what it was sent."""

    def __init__(self, bad: Callable[[int], bool], most: int = 10**9) -> None:
        self.bad, self.most, self.sent = bad, most, list[list[int]]()
        self.refused = self.answered = 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        numbers = [int(number) for number in inputs[:, 0]]
        self.sent.append(numbers)
        if len(numbers) > self.most or any(map(self.bad, numbers)):
            self.refused += len(numbers)
            raise Refused("more than 100 tokens")
        self.answered += len(numbers)
        return inputs * 2

    @property
    def teacher(self) -> Any:
        return teachers.from_callable(self, fingerprint="picky", name="picky")


@pytest.mark.parametrize("concurrency", [1, 5])
def test_one_refused_input_is_left_out_and_named(url: str, pool: Pool, concurrency: int, tmp_path: Path) -> None:
    server, store = Server(lambda number: number == BAD), ResponseStore(url)
    transfer = store.ask(server.teacher, pool, budget=100, batch_size=16, concurrency=concurrency)
    others = [number for number in range(100) if number != BAD]
    assert transfer.pool.inputs[:, 0].tolist() == transfer.responses["logits"][:, 0].div(2).tolist() == others
    assert [(one.row, one.digest, one.reason) for one in transfer.refused] == [
        (BAD, pool.digests[BAD].hex(), "more than 100 tokens")
    ]
    # Sixteen inputs, then its halves with the bad one among them: 8, 4, 2 and 1.
    assert transfer.accounts == store.accounts() == Accounts(paid=99, failed=16 + 8 + 4 + 2 + 1)
    assert (server.answered, server.refused) == (99, 31)
    assert [batch for batch in server.sent if BAD in batch][-1] == [BAD]

    # The next command serves the others, asks about that one again, and does not stop at it.
    again = store.ask(server.teacher, pool, budget=100)
    assert again.accounts == Accounts(served=99, failed=1)
    assert [one.row for one in again.refused] == [BAD]


def test_the_refused_are_written_down_beside_the_store(path: Path) -> None:
    texts = [f"text {i}" for i in range(20)] + ["long " * 100] + ["text 3"]

    def answer(asked: list[str]) -> torch.Tensor:
        if any(len(text) > 400 for text in asked):
            raise Refused("this model's maximum is 100 tokens")
        return torch.tensor([[float(len(text)), 1.0] for text in asked])

    teacher = teachers.from_callable(answer, fingerprint="short", name="short")
    for _ in range(2):
        transfer = ResponseStore(str(path)).ask(teacher, from_tensors(texts), budget=21)
        assert len(transfer) == 21
    (line,) = (path.parent / "responses.db.refused.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert (told["teacher"], told["row"], told["reason"]) == ("short", 20, "this model's maximum is 100 tokens")
    assert told["start"] == ("long " * 12)[:57] + "..."
    said = sentence(transfer.refused, 22, path)
    assert said.startswith("1 of 22 inputs was refused by the teacher (row 20: 'long long")
    assert said.endswith(f": this model's maximum is 100 tokens; it is left out; see {path}.")


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_request_that_is_too_large_makes_those_that_follow_smaller(path: Path, pool: Pool, concurrency: int) -> None:
    server = Server(lambda number: False, most=10)
    transfer = ResponseStore(str(path)).ask(server.teacher, pool, budget=100, batch_size=64, concurrency=concurrency)
    assert (len(transfer), transfer.refused, transfer.accounts.paid) == (100, (), 100)
    assert transfer.accounts.failed == server.refused
    if concurrency == 1:  # 64, 32, 16, then nothing that is larger than 8
        assert [len(batch) for batch in server.sent[:4]] == [64, 32, 16, 8]
        assert max(len(batch) for batch in server.sent[3:]) == 8


def test_a_teacher_that_refuses_everything_ends_the_ask(path: Path) -> None:
    server, store = Server(lambda number: True), ResponseStore(str(path))
    many = from_tensors(torch.arange(10_000.0).unsqueeze(1))
    with pytest.raises(TeacherError, match=r"refused 16 inputs one by one, and answered none \(more than 100 tokens\)"):
        store.ask(server.teacher, many, budget=10_000)
    assert len(server.sent) < 60
    assert store.accounts() == Accounts(failed=server.refused)


def test_refused_inputs_that_come_first_do_not_hide_the_others(path: Path) -> None:
    """The first fifty, which fill more requests than are tried in vain: some from all over the pool are tried too."""
    server = Server(lambda number: number < 50)
    transfer = ResponseStore(str(path)).ask(
        server.teacher, from_tensors(torch.arange(500.0).unsqueeze(1)), budget=500, batch_size=8
    )
    assert transfer.pool.inputs[:, 0].tolist() == list(range(50, 500))
    assert [one.row for one in transfer.refused] == list(range(50))


def test_few_inputs_that_are_all_refused(path: Path, pool: Pool) -> None:
    server, store = Server(lambda number: True), ResponseStore(str(path))
    with pytest.raises(TeacherError, match=r"refused all 3 inputs \(more than 100 tokens\); nothing was charged"):
        store.ask(server.teacher, pool[:3], budget=3)
    assert store.accounts() == Accounts(failed=3 + 2 + 3)


def test_a_refusal_that_no_split_can_help_ends_the_ask_at_once(path: Path, pool: Pool) -> None:
    sent = []

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        sent.append(len(inputs))
        raise NotCharged("no access", retry=False)

    with pytest.raises(TeacherError, match="no access"):
        ResponseStore(str(path)).ask(
            teachers.from_callable(answer, fingerprint="closed"), pool, budget=100, batch_size=10
        )
    assert sent == [10]


class Picky(torch.nn.Module):
    """Fails on one input, as a model may fail on a text that is too long for it."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if BAD in inputs:
            raise RuntimeError("index out of range in self")
        return inputs * 2


def test_a_local_model_that_fails_on_one_input(path: Path, pool: Pool) -> None:
    transfer = ResponseStore(str(path)).ask(teachers.from_torch(Picky()), pool, budget=100, batch_size=16)
    assert [one.row for one in transfer.refused] == [BAD]
    assert "index out of range" in transfer.refused[0].reason
    assert (len(transfer), transfer.accounts.paid) == (99, 99)


# -- answers that come too late ----------------------------------------------------------------------------------------


def slow(most: int, sent: list[int]) -> Any:
    def answer(inputs: torch.Tensor) -> torch.Tensor:
        sent.append(len(inputs))
        if len(inputs) > most:
            raise TimeoutError("no answer in 60 s")
        return inputs * 2

    return teachers.from_callable(answer, fingerprint="slow", name="slow")


def test_a_timeout_makes_requests_smaller_where_the_budget_has_room(path: Path, pool: Pool) -> None:
    """The 32 that timed out are paid twice, because nobody knows whether they were answered; no others are."""
    sent: list[int] = []
    store = ResponseStore(str(path))
    transfer = store.ask(slow(16, sent), pool, budget=132, batch_size=32)
    assert sent == [32, 16, 16, *[16] * 4, 4]
    assert transfer.accounts == store.accounts() == Accounts(paid=132, unknown=32)
    assert len(transfer) == 100


@pytest.mark.parametrize(("budget", "expected"), [(131, [32]), (1000, [32, 16])])
def test_a_timeout_ends_the_ask_where_asking_again_is_not_in_the_budget_or_does_not_help(
    path: Path, pool: Pool, budget: int, expected: list[int]
) -> None:
    sent: list[int] = []
    store = ResponseStore(str(path))
    with pytest.raises(TeacherError, match="TimeoutError: no answer in 60 s"):
        store.ask(slow(0, sent), pool, budget=budget, batch_size=32)
    assert sent == expected
    assert store.accounts() == Accounts(paid=sum(expected), unknown=sum(expected))


# -- what is sent, without a store -------------------------------------------------------------------------------------


@given(
    count=st.integers(0, 120),
    size=st.integers(1, 40),
    bad=st.sets(st.integers(0, 119), max_size=8),
    most=st.integers(1, 50),
)
def test_every_input_is_answered_or_refused_once(count: int, size: int, bad: set[int], most: int) -> None:
    digests = [bytes([number]) for number in range(count)]
    todo, answered, refused, requests = Pending(digests, size), list[int](), list[int](), 0
    while todo:
        piece = todo.next()
        requests += 1
        numbers = [digest[0] for digest in piece.digests]
        assert 0 < len(numbers) <= size
        if len(numbers) <= most and not bad & set(numbers):
            answered += numbers
            todo.answered(piece)
        elif len(numbers) > 1:
            todo.split(piece)
        else:
            refused += numbers
    wrong = bad & set(range(count))
    assert sorted(answered) == sorted(set(range(count)) - wrong)
    assert sorted(refused) == sorted(wrong)
    if most >= size:  # only the bad ones cost more: a path of halves each
        assert requests <= math.ceil(count / size) + len(wrong) * 2 * math.ceil(math.log2(max(2, size))) + count // size


def test_probes_come_from_all_over_and_are_sent_once() -> None:
    todo = Pending([bytes([number]) for number in range(100)], 10)
    first = todo.next()
    todo.split(first)
    todo.probe(8)
    sent = []
    while todo:
        sent.append([digest[0] for digest in todo.next().digests])
    assert [len(batch) for batch in sent[:8]] == [1] * 8
    assert sorted(sent[:8]) == [[i * 100 // 8] for i in range(8)]
    assert sorted(number for batch in sent for number in batch) == list(range(100))
