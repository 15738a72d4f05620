"""Exact sums of money, and tokens, against fractions."""

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition.data import Accounts, Bill, Pool
from tuition.errors import UserError
from tuition.store import ResponseStore, TeacherError, export, reask, usage
from tuition.store.price import Price, money, price
from tuition.store.shared_ask import ask_part, open_shared_ask
from tuition.teachers import Answer, BadAnswer, NotCharged, Refused, Tokens

amounts = st.decimals(0, 10**6, places=12)


@dataclass
class Metered:
    """A teacher that tells its tokens: 7 in for each input, and 1 out; `faults` are raised first."""

    name: str = "metered"
    fingerprint: str = "metered"
    faults: list[Exception | Answer] = field(default_factory=list)

    def tokens(self, inputs: int) -> Any:
        return Tokens(7 * inputs, inputs)

    def __call__(self, inputs: torch.Tensor) -> Answer:
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        answer = Answer(logits=inputs.expand(-1, 2))
        answer.tokens = self.tokens(len(inputs))
        return answer


@given(amounts, amounts, amounts, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 2**40), st.integers(0, 99))))
def test_bills_are_exact(call: Decimal, read: Decimal, written: Decimal, requests: list[tuple[int, int, int]]) -> None:
    charged = price(str(call), f"{read},{written}")
    total = sum((charged.bill(calls, Tokens(i, o)) for calls, i, o in requests), Bill())
    expected = sum(c * Fraction(call) + (i * Fraction(read) + o * Fraction(written)) / 10**6 for c, i, o in requests)
    assert Fraction(total.cost) == expected
    assert Bill.from_dict(total.as_dict()) == total
    assert Fraction(money(total.cost).replace(",", "")) == expected


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        ("0", "0.00"),
        ("0.0004", "0.0004"),
        ("1234.5", "1,234.50"),
        ("1E+3", "1,000.00"),
        ("0.000000028", "0.000000028"),
        ("6.000", "6.00"),
    ],
)
def test_every_digit_is_shown(cost: str, shown: str) -> None:
    assert money(Decimal(cost)) == shown


@pytest.mark.parametrize("written", [0.1, "0.1", Decimal("0.1"), " 0.10 ", "1e-1", ".1"])
def test_a_tenth_is_a_tenth(written: Any) -> None:
    assert price(written).bill(3).cost == Decimal("0.3")
    assert price(None, (written, 0)) == Price(input=Decimal("0.1"))


@pytest.mark.parametrize("written", ["", "a", "nan", "inf", "-1", "1e9", "1e-13", "1,5", True, [1], None, "1 000"])
def test_what_is_not_an_amount(written: Any) -> None:
    if written is not None:
        with pytest.raises(UserError, match="a price is"):
            price(written)
    for pair in (f"{written},1", (1, written)):
        with pytest.raises(UserError, match="a price"):
            price(None, pair)


@pytest.mark.parametrize("written", ["1", "1,2,3", 0.5, (1,), [1, 2, 3], {"in": 1}, ""])
def test_what_is_not_a_pair(written: Any) -> None:
    with pytest.raises(UserError, match="IN,OUT"):
        price(None, written)


def test_tokens_and_cost_of_an_ask(url: str, pool: Pool, tmp_path: Path) -> None:
    """Refused requests with tokens, bad answers and answers that cannot be stored are billed as well."""
    store, teacher = ResponseStore(url), Metered()
    prices: dict[str, Any] = {"cost_per_call": "0.0004", "cost_per_million_tokens": "0.02,0.08"}
    transfer = store.ask(teacher, pool[:20], budget=99, batch_size=3, **prices)
    expected = Bill(Decimal("0.0004") * 20 + Decimal("0.00000022") * 20, 140, 20, 20)
    assert transfer.bill == expected
    assert transfer.accounts == Accounts(paid=20)

    bad = Answer(logits=torch.zeros(1, 2))
    bad.tokens = Tokens(10, 0)
    for fault, extra, calls in (
        (BadAnswer("odd", tokens=Tokens(100, 10)), Bill(Decimal("0.0012028"), 100, 10, 3), 3),
        (bad, Bill(Decimal("0.0012002"), 10, 0, 3), 3),
        (NotCharged("filtered", retry=False, tokens=Tokens(50, 0)), Bill(Decimal("0.000001"), 50, 0, 0), 0),
        (OSError("cut"), Bill(Decimal("0.0012")), 3),
    ):
        teacher.faults.append(fault)
        before = store.accounts().paid
        with pytest.raises(TeacherError):
            store.ask(teacher, pool[20:23], budget=99, **prices)
        assert store.accounts().paid == before + calls
        expected += extra
    (found,) = usage(store)
    assert found.bill == expected
    assert found.cost == expected.cost

    again = reask(store, teacher, pool, count=5, budget=99, seed=0, **prices)
    assert again.bill == Bill(Decimal("0.0020011"), 35, 5, 5)
    export(store, tmp_path / "out")
    import json

    import pyarrow.parquet as pq

    about = json.loads(pq.read_schema(tmp_path / "out" / "responses.parquet").metadata[b"tuition"])
    assert Decimal(about["metered"]["cost"]) == (expected + again.bill).cost
    assert about["metered"]["input_tokens"] == (expected + again.bill).input_tokens


@pytest.mark.parametrize("told", [None, Tokens(-1, 0), Tokens(2**70, 1), Tokens(1.5, 1), Tokens("7", 1), "many"])
def test_counts_that_cannot_be_are_left_out(path: Path, pool: Pool, told: Any) -> None:
    class Odd(Metered):
        def tokens(self, inputs: int) -> Any:
            return told

    teacher = Odd()
    transfer = ResponseStore(str(path)).ask(teacher, pool, budget=100, cost_per_million_tokens=(1, 1))
    assert transfer.accounts == Accounts(paid=100)
    assert transfer.bill == Bill()


def test_parts_of_an_ask_are_billed_together(url: str, pool: Pool) -> None:
    store, teacher, charged = ResponseStore(url), Metered(), price("0.1", "1,2")
    with open_shared_ask(store, teacher, pool, budget=100, price=charged) as shared:
        for start in range(0, 100, 40):
            ask_part(store, teacher, pool[start : start + 40], shared.number, budget=100, batch_size=7, price=charged)
    assert shared.bill == Bill(Decimal("10.0009"), 700, 100, 100)
    assert usage(store)[0].bill == shared.bill


def test_the_plan_estimates_tokens_by_what_was_answered(url: str, pool: Pool) -> None:
    store, teacher = ResponseStore(url), Metered()
    assert store.plan(teacher, pool, cost_per_call=0.1).cost == 10
    assert store.plan(teacher, pool, cost_per_million_tokens=(1, 2)).cost is None
    assert store.plan(teacher, pool).cost is None
    store.ask(teacher, pool[:10], budget=10)
    plan = store.plan(teacher, pool, cost_per_call="0.1", cost_per_million_tokens=(1, 2))
    assert plan.tokens == (7, 1)
    assert plan.cost == Decimal("9.00081")


def test_a_refusal_may_tell_tokens() -> None:
    assert Refused("filtered", tokens=Tokens(1, 2)).tokens == Tokens(1, 2)
    assert Refused("too long").tokens is None
    assert not Refused("too long").retry
