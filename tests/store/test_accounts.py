"""The books against a model of them that is a few lines of arithmetic, over random histories of asks."""

import tempfile
from decimal import Decimal
from fractions import Fraction
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tuition import teachers
from tuition.data import Accounts, from_tensors
from tuition.store import BudgetError, ResponseStore, TeacherError, prune, usage
from tuition.teachers import NotCharged

FATES = ["answered"] * 12 + ["refused", "permanently refused", "failed", "NaN", "a row short"]


class Books(RuleBasedStateMachine):
    """`stored` and `accounts` are what the store ought to say."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = ResponseStore(f"{self.folder.name}/responses.db")
        self.stored: set[int] = set()
        self.accounts, self.cost, self.named = Accounts(), Fraction(0), False

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(
        numbers=st.lists(st.integers(0, 29), min_size=1, max_size=40),
        batch_size=st.integers(1, 8),
        budget=st.integers(0, 120),
        fates=st.lists(st.sampled_from(FATES), max_size=12),
        price=st.sampled_from([None, 0.25, 0.1, "0.0004", Decimal("0.3")]),
    )
    def ask(self, numbers: list[int], batch_size: int, budget: int, fates: list[str], price: Any) -> None:
        script = iter(fates)
        change = {"paid": 0, "failed": 0, "unknown": 0}

        def answer(inputs: torch.Tensor) -> torch.Tensor:
            fate, sent = next(script, "answered"), [int(number) for number in inputs[:, 0]]
            assert not self.stored & set(sent), "paid twice"
            assert len(sent) == len(set(sent)) <= batch_size
            if fate.startswith("refused"):
                change["failed"] += len(sent)
                raise NotCharged(fate, retry_after=0.0, retry=fate == "refused")
            change["paid"] += len(sent)
            if fate == "failed":
                change["unknown"] += len(sent)
                raise OSError
            logits = inputs + torch.tensor([0.5, 1.5])
            if fate == "a row short":
                return logits[1:]
            if fate == "NaN":
                logits[0, 1] = torch.nan
                sent = sent[1:]
            self.stored |= set(sent)
            return logits

        new = set(numbers) - self.stored
        fits = not new or self.accounts.paid + len(new) <= budget
        pool = from_tensors(torch.tensor(numbers, dtype=torch.float32).unsqueeze(1))
        teacher = teachers.from_callable(answer, fingerprint="model", name="model")
        try:
            transfer = self.store.ask(
                teacher, pool, budget=budget, batch_size=batch_size, retries=50, cost_per_call=price
            )
        except BudgetError:
            assert not fits
            assert change["paid"] + change["failed"] == 0
            return
        except TeacherError:
            served = 0
        else:
            assert torch.equal(transfer.responses["logits"], pool.inputs + torch.tensor([0.5, 1.5]))
            served = len(numbers) - len(new)
            assert transfer.accounts == Accounts(**change, served=served)
            assert transfer.accounts.paid + transfer.accounts.served == len(numbers)
        assert fits
        self.named = True
        self.accounts += Accounts(**change, served=served)
        self.cost += Fraction(str(price or 0)) * change["paid"]

    @rule()
    def prune(self) -> None:
        if self.named:
            assert prune(self.store, "model") == len(self.stored)
            self.stored.clear()

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.accounts() == self.accounts
        if self.named:
            (found,) = usage(self.store)
            assert (found.names, found.accounts, found.cost) == (("model",), self.accounts, self.cost)
            assert found.responses == len(self.stored)
            assert (found.bytes > 0) == bool(self.stored)


Books.TestCase.settings = settings(
    max_examples=20, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBooks = Books.TestCase
