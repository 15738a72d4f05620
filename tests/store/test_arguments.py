"""What people pass instead of a teacher or a pool: a sentence that says what to pass; and what a store shows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tuition import teachers
from tuition.data import Pool
from tuition.errors import UserError
from tuition.store import ResponseStore, reask, usage

NET = torch.nn.Linear(1, 3)
ITEMS = torch.zeros(4, 1)


@pytest.mark.parametrize(
    ("thing", "match"),
    [
        (NET, r"a Linear; pass teachers.from_torch\(model\)"),
        (lambda x: x, r"a function; pass teachers.from_callable\(function, fingerprint="),
        ("openai:gpt", r"a str; pass teachers.load\("),
        (3, "an int; pass what one of tuition.teachers makes"),
    ],
)
def test_what_is_no_teacher(path: Path, pool: Pool, thing: Any, match: str) -> None:
    store = ResponseStore(str(path))
    for question in (
        lambda: store.ask(thing, pool, budget=1),
        lambda: store.plan(thing, pool),
        lambda: reask(store, thing, pool, count=1, budget=1, seed=0),
    ):
        with pytest.raises(UserError, match=f"the teacher is {match}"):
            question()


@pytest.mark.parametrize(
    ("thing", "match"),
    [
        (ITEMS, r"a Tensor, not a pool; pass data.from_tensors\(inputs\)"),
        (["one", "two"], r"a list of str, not a pool; pass data.from_tensors\(inputs\)"),
        ("digits", r"a str, not a pool; pass data.load\(name\)"),
        (
            DataLoader(TensorDataset(ITEMS)),
            r"a DataLoader, not a pool; pass data.from_tensors\(inputs, labels\)",
        ),
    ],
)
def test_what_is_no_pool(path: Path, thing: Any, match: str) -> None:
    with pytest.raises(UserError, match=f"the inputs are {match}"):
        ResponseStore(str(path)).ask(teachers.from_torch(NET), thing, budget=1)


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({}, "say how many calls may be paid for this teacher in all; pass budget="),
        ({"budget": "x"}, "the budget is a whole number, not 'x'"),
        ({"budget": 4.5}, "the budget is a whole number, not 4.5"),
        ({"budget": True}, "the budget is a whole number, not True"),
        ({"budget": -1}, "the budget is at least 0, not -1"),
        ({"budget": 4, "batch_size": 0}, "the batch size is at least 1, not 0"),
        ({"budget": 4, "concurrency": "2"}, "the concurrency is a whole number, not '2'"),
    ],
)
def test_limits_that_make_no_sense(path: Path, pool: Pool, limits: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        ResponseStore(str(path)).ask(teachers.from_callable(len, fingerprint="1"), pool, **limits)


def test_a_network_and_a_tensor_without_a_budget(path: Path) -> None:
    with pytest.raises(UserError, match=r"the teacher is a Linear; pass teachers.from_torch\(model\)"):
        ResponseStore(str(path)).ask(NET, ITEMS)  # type: ignore[arg-type]


def test_the_pool_before_the_teacher(path: Path, pool: Pool) -> None:
    with pytest.raises(UserError, match="the teacher comes first, then the pool"):
        ResponseStore(str(path)).ask(pool, teachers.from_torch(NET), budget=1)  # type: ignore[arg-type]


def test_a_store_and_its_usage_are_two_lines(path: Path, pool: Pool) -> None:
    store = ResponseStore(str(path))
    assert repr(store) == f"ResponseStore {path}\n  0 teachers, 0 answers"
    store.ask(teachers.from_torch(NET, name="net"), pool, budget=100)
    assert repr(store) == f"ResponseStore {path}\n  1 teacher, 100 answers"
    first, second = repr(usage(store)[0]).splitlines()
    assert first.startswith("Usage of net: 100 answers, 0.0 MB")
    assert second == "  calls: 100 paid, 0 from cache, 0 failed, 0 in flight when interrupted; cost 0.00"
    path.unlink()
    assert "was deleted or renamed while it was in use" in repr(store)
