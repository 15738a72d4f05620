"""What an ask promises: answers in order, nothing paid twice, budgets kept, trouble told."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tuition import teachers
from tuition.data import Accounts, Pool, from_tensors
from tuition.errors import UserError
from tuition.store import BudgetError, ResponseStore, Stopped, TeacherError
from tuition.teachers import BadAnswer, NotCharged


class Paid:
    """A teacher that remembers every input it was sent, and answers x * (1, 2, 3)."""

    name, fingerprint = "paid", "version 1"

    def __init__(self, answer: Callable[[torch.Tensor], Any] | None = None) -> None:
        self.sent: list[list[float]] = []
        self.answer = answer or right

    def __call__(self, inputs: torch.Tensor) -> Any:
        self.sent.append(inputs[:, 0].tolist())
        return self.answer(inputs)

    @property
    def calls(self) -> list[float]:
        return [number for batch in self.sent for number in batch]


def right(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": inputs * torch.tensor([1.0, 2.0, 3.0])}


def test_rows_come_in_the_pools_order_and_are_paid_once(url: str, pool: Pool) -> None:
    store, teacher = ResponseStore(url), Paid()
    shuffled = pool.sample(60, seed=1)
    first = store.ask(teacher, shuffled, budget=60, batch_size=7)
    assert torch.equal(first.responses["logits"], right(shuffled.inputs)["logits"])
    assert first.responses["logits"].dtype == torch.float32
    assert first.accounts == Accounts(paid=60)
    assert (first.teacher, first.fingerprint) == ("paid", "version 1")
    assert [len(batch) for batch in teacher.sent] == [7] * 8 + [4]

    second = ResponseStore(url).ask(teacher, pool, budget=100)
    assert torch.equal(second.responses["logits"], right(pool.inputs)["logits"])
    assert second.accounts == Accounts(paid=40, served=60)
    assert sorted(teacher.calls) == list(range(100))
    assert store.accounts() == store.accounts("paid") == store.accounts(teacher) == Accounts(paid=100, served=60)


def test_equal_inputs_are_one_call_and_several_rows(url: str) -> None:
    teacher = Paid()
    pool = from_tensors(torch.tensor([[1.0], [2.0], [1.0], [1.0], [3.0], [2.0]]))
    transfer = ResponseStore(url).ask(teacher, pool, budget=3)
    assert transfer.responses["logits"][:, 0].tolist() == [1, 2, 1, 1, 3, 2]
    assert transfer.accounts == Accounts(paid=3, served=3)
    assert teacher.calls == [1, 2, 3]


def test_views_are_asked_as_seen(path: Any) -> None:
    """Two crops of one image are two inputs; the same crop again is none."""
    from tuition.data import Crop

    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pool = from_tensors(images)
    seen: list[torch.Tensor] = []

    def look(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs)
        return inputs.float().flatten(1).mean(1, keepdim=True)

    teacher, store = teachers.from_callable(look, fingerprint="looks"), ResponseStore(str(path))
    for seed in (1, 2, 1):
        cropped = pool.view(Crop(padding=2), seed=seed)
        transfer = store.ask(teacher, cropped, budget=8)
        assert torch.equal(transfer.responses["logits"], cropped.asked().float().flatten(1).mean(1, keepdim=True))
    assert sum(map(len, seen)) == 8


def test_what_does_not_fit_the_budget_is_refused_before_anything_is_sent(url: str, pool: Pool) -> None:
    store, teacher = ResponseStore(url), Paid()
    with pytest.raises(BudgetError, match=r"100 new calls do not fit in the budget of 99 .* raise the budget to 100"):
        store.ask(teacher, pool, budget=99)
    assert teacher.sent == []
    store.ask(teacher, pool[:30], budget=30)
    with pytest.raises(BudgetError, match=r"1 new calls .* budget of 30 .* 30 already paid; nothing"):
        store.ask(teacher, pool[:31], budget=30)
    assert store.ask(teacher, pool[:30], budget=0).accounts == Accounts(served=30)
    assert store.accounts() == Accounts(paid=30, served=30)


def test_the_budget_of_a_store_counts_all_its_teachers(url: str, pool: Pool) -> None:
    one, two = (teachers.from_callable(lambda x: x, fingerprint=version) for version in ("1", "2"))
    ResponseStore(url).ask(one, pool[:30], budget=30)
    store = ResponseStore(url, budget=50)
    with pytest.raises(BudgetError, match="21 new calls do not fit in the budget of 50 for all teachers of the store"):
        store.ask(two, pool[:21], budget=1000)
    store.ask(two, pool[:20], budget=20)
    assert store.accounts(two).paid == 20


def test_plan_tells_without_asking_or_writing(url: str, pool: Pool) -> None:
    store, teacher = ResponseStore(url), Paid()
    plan = store.plan(teacher, pool, cost_per_call=0.01)
    assert (plan.new, plan.served, plan.paid, plan.cost) == (100, 0, 0, 1.0)
    store.ask(teacher, pool[:40], budget=40)
    plan = store.plan(teacher, from_tensors(torch.cat([pool.inputs, pool.inputs])))
    assert (plan.new, plan.served, plan.paid, plan.cost) == (60, 140, 40, None)
    assert len(teacher.calls) == 40


def test_a_name_stands_for_one_teacher(url: str, pool: Pool) -> None:
    store = ResponseStore(url)

    def teacher(fingerprint: str, name: str) -> Any:
        return teachers.from_callable(lambda x: x, fingerprint=fingerprint, name=name)

    store.ask(teacher("net; weights aa; scale 1", "big"), pool[:5], budget=5)
    for question in (store.plan, lambda t, p: store.ask(t, p, budget=9)):
        with pytest.raises(UserError, match=r"'big' stands for another teacher.*stored: weights aa; given: weights bb"):
            question(teacher("net; weights bb; scale 1", "big"), pool[:5])
    assert store.ask(teacher("net; weights bb; scale 1", "small"), pool[:5], budget=5).accounts.paid == 5
    # The same teacher by another name is the same teacher: its answers are not paid again.
    assert store.ask(teacher("net; weights aa; scale 1", "alias"), pool[:5], budget=5).accounts == Accounts(served=5)


def test_refusals_are_retried_and_not_paid(url: str, pool: Pool) -> None:
    refusals = iter([NotCharged("busy", retry_after=0.01), NotCharged("busy", retry_after=0.01)])

    def answer(inputs: torch.Tensor) -> Any:
        for refusal in refusals:
            raise refusal
        return right(inputs)

    store, teacher = ResponseStore(url), Paid(answer)
    transfer = store.ask(teacher, pool, budget=100, batch_size=50)
    assert transfer.accounts == store.accounts() == Accounts(paid=100, failed=100)
    assert torch.equal(transfer.responses["logits"], right(pool.inputs)["logits"])


def test_retry_after_is_honoured(path: Any, pool: Pool) -> None:
    times: list[float] = []

    def answer(inputs: torch.Tensor) -> Any:
        times.append(time.monotonic())
        if len(times) == 1:
            raise NotCharged("busy", retry_after=0.3)
        return right(inputs)

    ResponseStore(str(path)).ask(Paid(answer), pool, budget=100, batch_size=100)
    assert times[1] - times[0] >= 0.3


def test_no_refusal_shortens_anothers_pause(path: Any, pool: Pool) -> None:
    """Two requests at once are refused, for long and for short, in this order: nothing is sent before the longer."""
    both, times = threading.Barrier(2), list[float]()

    def answer(inputs: torch.Tensor) -> Any:
        times.append(time.monotonic())
        if len(times) <= 2:
            both.wait(30)
            time.sleep(0.1 * (50 in inputs))  # the second half is refused later
            raise NotCharged("busy", retry_after=0.0 if 50 in inputs else 0.6)
        return right(inputs)

    ResponseStore(str(path)).ask(Paid(answer), pool, budget=100, batch_size=50, concurrency=2)
    assert len(times) == 4
    assert times[2] - times[1] >= 0.6


def test_no_more_inputs_a_request_than_the_teacher_takes(path: Any, pool: Pool) -> None:
    teacher = Paid()
    teacher.max_batch = 3  # type: ignore[attr-defined]
    ResponseStore(str(path)).ask(teacher, pool[:10], budget=10, batch_size=64)
    assert [len(batch) for batch in teacher.sent] == [3, 3, 3, 1]


def test_a_bad_answer_is_paid_and_not_unknown(path: Any, pool: Pool) -> None:
    def answer(inputs: torch.Tensor) -> Any:
        raise BadAnswer("no numbers")

    store = ResponseStore(str(path))
    with pytest.raises(TeacherError, match=r"gave a bad answer \(no numbers\); that answer is paid, not stored"):
        store.ask(Paid(answer), pool, budget=100, batch_size=10)
    assert store.accounts() == Accounts(paid=10)


def test_logits_of_fewer_classes_than_the_data_has(path: Any) -> None:
    store = ResponseStore(str(path))
    pool = from_tensors(torch.arange(4.0).unsqueeze(1), [0, 1, 2, 3])
    with pytest.raises(TeacherError, match=r"logits of shape \(4, 3\), where the inputs have 4 classes"):
        store.ask(Paid(), pool, budget=4)
    assert store.accounts() == Accounts(paid=4)
    assert store.ask(Paid(), from_tensors(pool.inputs), budget=8).accounts == Accounts(paid=4)


@pytest.mark.parametrize(("retry", "attempts"), [(True, 3), (False, 1)])
def test_permanently_refused(path: Any, pool: Pool, retry: bool, attempts: int) -> None:
    def answer(inputs: torch.Tensor) -> Any:
        if 50 in inputs:
            raise NotCharged("no key", retry_after=0.0, retry=retry)
        return right(inputs)

    store, teacher = ResponseStore(str(path)), Paid(answer)
    with pytest.raises(TeacherError, match=r"'paid' gave no answer \(no key\); nothing was charged"):
        store.ask(teacher, pool, budget=100, batch_size=10, retries=2)
    assert store.accounts() == Accounts(paid=50, failed=10 * attempts)
    teacher.answer = right
    assert store.ask(teacher, pool, budget=100).accounts == Accounts(paid=50, served=50)


WRONG = {
    "NaN": lambda x: {"logits": torch.where(x == 11, torch.nan, right(x)["logits"])},
    "infinity": lambda x: {"logits": torch.where(x == 11, torch.inf, right(x)["logits"])},
    "beyond float32": lambda x: {"logits": torch.where(x == 11, 1e300, right(x)["logits"].double())},
    "a row short": lambda x: {"logits": right(x)["logits"][1:]},
    "a row long": lambda x: {"logits": torch.cat([right(x)["logits"]] * 2)},
    "no rows": lambda x: {"logits": torch.tensor(1.0)},
    "no columns": lambda x: {"logits": torch.empty(len(x), 0)},
    "complex": lambda x: {"logits": x.to(torch.complex64)},
    "no tensor": lambda x: {"logits": [[1.0]] * len(x)},
    "no outputs": lambda x: {},
    "no mapping": lambda x: x,
    "a reserved name": lambda x: {**right(x), "input_digests": x},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_malformed_answers_are_paid_and_not_stored(path: Any, pool: Pool, wrong: str) -> None:
    store, teacher = ResponseStore(str(path)), Paid(lambda x: WRONG[wrong](x) if 11 in x else right(x))
    with pytest.raises(TeacherError, match="that answer is paid, not stored"):
        store.ask(teacher, pool, budget=100, batch_size=10)
    assert store.accounts() == Accounts(paid=20)
    good_rows = 9 if wrong in ("NaN", "infinity", "beyond float32") else 0
    teacher.answer = right
    assert store.plan(teacher, pool).new == 90 - good_rows
    transfer = store.ask(teacher, pool, budget=120)
    assert torch.equal(transfer.responses["logits"], right(pool.inputs)["logits"])


def test_one_answer_of_another_width(path: Any, pool: Pool) -> None:
    """It comes second: what was stored is kept, it is not."""
    store, teacher = ResponseStore(str(path)), Paid(lambda x: {"logits": x.expand(-1, 4)} if 11 in x else right(x))
    with pytest.raises(TeacherError, match="logits 4 wide, where those stored are 3 wide; of these two widths, only"):
        store.ask(teacher, pool, budget=100, batch_size=10)
    assert store.accounts() == Accounts(paid=20)
    teacher.answer = right
    assert store.ask(teacher, pool, budget=110).accounts == Accounts(paid=90, served=10)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_first_answer_of_another_width_costs_no_others(path: Any, pool: Pool, labelled: bool) -> None:
    """Four good requests arrive after the odd one; or only one does, of the number of classes that the labels have."""
    first = threading.Event()

    def answer(inputs: torch.Tensor) -> Any:
        if 0 in inputs:
            return {"logits": inputs.expand(-1, 4)}
        first.wait(120)  # until the odd one is recorded and one more request is sent
        return right(inputs)

    if labelled:
        pool = from_tensors(pool.inputs, torch.arange(100) % 3)
    store, teacher = ResponseStore(str(path)), Paid(answer)
    asked = {"batch_size": 10, "concurrency": 1 if labelled else 4, "check_answers": False}
    with pytest.raises(TeacherError, match="only that of most answers is kept"):
        store.ask(teacher, pool, budget=100, progress=lambda *_: first.set(), **asked)
    paid = 20 if labelled else 50
    assert store.accounts() == Accounts(paid=paid)
    teacher.answer = right
    transfer = store.ask(teacher, pool, budget=110, check_answers=False)
    assert transfer.accounts == Accounts(paid=110 - paid, served=paid - 10)
    assert torch.equal(transfer.responses["logits"], right(pool.inputs)["logits"])


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_failing_teacher_counts_as_paid(url: str, pool: Pool, concurrency: int) -> None:
    def answer(inputs: torch.Tensor) -> Any:
        if 50 in inputs:
            raise TimeoutError("no answer in 3 s")
        return right(inputs)

    store, teacher = ResponseStore(url), Paid(answer)
    with pytest.raises(TeacherError, match="failed with TimeoutError: no answer in 3 s") as raised:
        store.ask(teacher, pool, budget=100, batch_size=10, concurrency=concurrency)
    assert isinstance(raised.value.__cause__, TimeoutError)
    accounts = store.accounts()
    assert (accounts.paid, accounts.unknown) == (len(teacher.calls), 10)
    assert store.plan(teacher, pool).new == 100 - accounts.paid + 10


def test_requests_in_flight_at_a_time(path: Any, pool: Pool) -> None:
    here, most, lock = 0, 0, threading.Lock()
    five = threading.Barrier(5)

    def answer(inputs: torch.Tensor) -> Any:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        five.wait(30)  # passes only with five requests in flight
        with lock:
            here -= 1
        return right(inputs)

    settled: list[tuple[int, int]] = []
    transfer = ResponseStore(str(path)).ask(
        Paid(answer), pool, budget=100, batch_size=5, concurrency=5, progress=lambda *counts: settled.append(counts)
    )
    assert most == 5
    assert torch.equal(transfer.responses["logits"], right(pool.inputs)["logits"])
    assert settled == [(count, 100) for count in range(5, 101, 5)]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_interrupt_stores_what_arrived(url: str, pool: Pool, concurrency: int) -> None:
    """Ctrl-C in the main thread, while one request of four never comes back."""
    release, in_time = threading.Event(), list[bool]()

    def answer(inputs: torch.Tensor) -> Any:
        if 50 in inputs and concurrency == 1:
            raise KeyboardInterrupt
        if 50 in inputs:
            in_time.append(release.wait(120))
        return right(inputs)

    def interrupt(settled: int, total: int) -> None:
        if settled == 80:
            raise KeyboardInterrupt

    store, teacher = ResponseStore(url), Paid(answer)
    with pytest.raises(KeyboardInterrupt):
        store.ask(teacher, pool, budget=100, batch_size=10, concurrency=concurrency, progress=interrupt)
    assert in_time == [], "waited for an answer that does not come"
    release.set()
    accounts = store.accounts()
    answered = 50 if concurrency == 1 else 80
    assert answered <= accounts.paid - accounts.unknown <= 90
    assert accounts.paid == len(teacher.calls)
    assert accounts.unknown >= 10
    teacher.answer = right
    transfer = store.ask(teacher, pool, budget=200)
    assert transfer.accounts.paid == 100 - (accounts.paid - accounts.unknown)
    assert torch.equal(transfer.responses["logits"], right(pool.inputs)["logits"])


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_ask_that_is_told_to_stop(url: str, pool: Pool, concurrency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives within the grace is stored, the rest is paid and unknown, and nothing more is sent."""
    monkeypatch.setattr("tuition.store.asking.GRACE", 3.0)
    stop, release = threading.Event(), threading.Event()

    def answer(inputs: torch.Tensor) -> Any:
        if 50 in inputs:
            stop.set()
            release.wait(120)
        return right(inputs)

    store, teacher = ResponseStore(url), Paid(answer)
    with pytest.raises(Stopped, match="was stopped; what was answered is stored"):
        store.ask(teacher, pool, budget=100, batch_size=10, concurrency=concurrency, stopping=stop.is_set)
    release.set()
    accounts = store.accounts()
    assert (accounts.unknown, accounts.paid) == (10, len(teacher.calls))
    assert store.plan(teacher, pool).new == 110 - accounts.paid
    assert len(teacher.sent) <= 5 + concurrency


def test_threads_on_one_store_share_the_work(url: str, pool: Pool) -> None:
    """Four asks about the same inputs at the same time, within the budget of one."""
    teacher = Paid(lambda x: time.sleep(0.01) or right(x))
    store, found = ResponseStore(url), []

    def ask() -> None:
        found.append(store.ask(teacher, pool, budget=100, batch_size=3))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(teacher.calls) == list(range(100))
    assert sum(transfer.accounts.paid for transfer in found) == 100
    for transfer in found:
        assert torch.equal(transfer.responses["logits"], right(pool.inputs)["logits"])
        assert transfer.accounts.paid + transfer.accounts.served == 100


def test_a_failed_call_of_another_asker_is_taken_over(url: str, pool: Pool) -> None:
    """One asker waits for inputs that another has in flight; the other's request is permanently refused."""
    sent = threading.Event()

    def refuse(inputs: torch.Tensor) -> Any:
        sent.set()
        time.sleep(0.3)
        raise NotCharged("down", retry=False)

    store = ResponseStore(url)

    def fail() -> None:
        with pytest.raises(TeacherError):
            store.ask(Paid(refuse), pool[:10], budget=10)

    other = threading.Thread(target=fail)
    other.start()
    sent.wait(120)
    transfer = store.ask(Paid(), pool[:20], budget=20, batch_size=10)
    other.join()
    assert transfer.accounts == Accounts(paid=20)


def test_calls_lost_by_another_asker_do_not_break_the_budget(url: str, pool: Pool) -> None:
    """Both mean to send the same inputs, which fits; one loses its calls, so the other may not send them again."""
    sent = threading.Event()

    def lose(inputs: torch.Tensor) -> Any:
        sent.set()
        time.sleep(0.3)
        raise OSError("cut")

    store, second = ResponseStore(url), Paid()

    def fail() -> None:
        with pytest.raises(TeacherError, match="cut"):
            store.ask(Paid(lose), pool[:10], budget=10)

    other = threading.Thread(target=fail)
    other.start()
    sent.wait(120)
    with pytest.raises(BudgetError, match=r"10 more calls do not fit in the budget of 10, of which 10 are used up"):
        store.ask(second, pool[:10], budget=10)
    other.join()
    assert second.sent == []
    assert store.accounts() == Accounts(paid=10, unknown=10)


def test_outputs_of_several_kinds(url: str, pool: Pool) -> None:
    """Vectors come back as float32, maps as bfloat16; the outputs are those that all rows have."""
    maps = torch.randn(100, 4, 2, 2, generator=torch.Generator().manual_seed(0))

    def both(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**right(inputs), "embedding": inputs.double(), "block.1": maps[inputs[:, 0].long()]}

    store, teacher = ResponseStore(url), Paid(both)
    found = store.ask(teacher, pool[:50], budget=50).responses
    assert {name: value.dtype for name, value in found.items()} == {
        "logits": torch.float32,
        "embedding": torch.float32,
        "block.1": torch.bfloat16,
    }
    assert torch.equal(found["block.1"], maps[:50].bfloat16())
    teacher.answer = right
    assert list(store.ask(teacher, pool, budget=100).responses) == ["logits"]


def test_half_precision_storage(url: str, pool: Pool) -> None:
    """float16 rounds; what would overflow is kept as it is."""
    large = Paid(lambda x: {"logits": x * 1000 + torch.tensor([0.0, 0.1234])})
    transfer = ResponseStore(url, dtype="float16").ask(large, pool, budget=100, batch_size=10)
    expected = large.answer(pool.inputs)["logits"]
    rounded = torch.cat([expected[:60].half().float(), expected[60:]])  # 65504 is the largest float16
    assert torch.equal(transfer.responses["logits"], rounded)


def test_stored_answers_without_the_layers_asked_for_are_refused(path: Any, pool: Pool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    store = ResponseStore(str(path))
    store.ask(teachers.from_torch(model), pool[:10], budget=10)
    white = teachers.from_torch(model, layers=["1"])
    for question in (store.plan, lambda t, p: store.ask(t, p, budget=100)):
        with pytest.raises(UserError, match="10 of these inputs are stored without the maps 1"):
            question(white, pool)
    assert store.ask(white, pool[10:], budget=100).accounts.paid == 90
    assert set(store.ask(white, pool[10:], budget=100).responses) == {"logits", "1"}


def test_settings_that_make_no_sense(path: Any, pool: Pool) -> None:
    store = ResponseStore(str(path))
    for settings in ({"budget": -1}, {"budget": 1, "batch_size": 0}, {"budget": 1, "concurrency": 0}):
        with pytest.raises(UserError, match="is at least"):
            store.ask(Paid(), pool, **settings)
    with pytest.raises(UserError, match="float32 or float16"):
        ResponseStore(str(path), dtype="int8")
    with pytest.raises(UserError, match="knows no teacher 'nobody'"):
        store.accounts("nobody")


def test_texts(url: str) -> None:
    pool = from_tensors(["a", "bb", "a", "ccc ccc", "d"])
    teacher = teachers.from_callable(lambda texts: torch.tensor([[len(t), 1.0] for t in texts]), fingerprint="length")
    transfer = ResponseStore(url).ask(teacher, pool, budget=4, batch_size=2)
    assert transfer.responses["logits"][:, 0].tolist() == [1, 2, 1, 7, 1]
    assert transfer.accounts == Accounts(paid=4, served=1)


def test_an_ask_about_nothing_is_a_sentence(url: str, pool: Pool) -> None:
    teacher, store = Paid(), ResponseStore(url)
    for nothing in (lambda: pool[:0], lambda: from_tensors(torch.zeros(0, 2)), lambda: from_tensors([])):
        with pytest.raises(UserError, match=r"there is nothing to ask about|holds no inputs"):
            store.ask(teacher, nothing(), budget=10)
    assert teacher.calls == []
    assert store.accounts() == Accounts()
