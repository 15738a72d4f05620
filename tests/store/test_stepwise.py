"""What was bought is looked at: asks of wrong teachers end early, others go on, and the accounts are exact."""

import warnings

import pytest
import torch
from torch import nn

from tuition import teachers
from tuition.data import Accounts, classes, from_tensors
from tuition.errors import Notice, UserError
from tuition.store import ResponseStore, TeacherError, agreement, reask

COUNT = 600


def images(count_of_classes, count=COUNT, seed=0):
    """Grey pictures whose mean tells their class, with noise, and names kind 0, kind 1, ..."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, count_of_classes, (count,), generator=generator)
    level = (labels + 0.5) * 250 / count_of_classes
    noise = torch.randn(count, 1, 8, 8, generator=generator)
    pictures = (level[:, None, None, None] + noise).round().clamp(0, 255).to(torch.uint8)
    names = [f"kind {i}" for i in range(count_of_classes)]
    return from_tensors(pictures, labels, class_names=names, name="pictures")


class Level(nn.Module):
    """Reads the class of a picture from its mean, which is expected from 0 to `top`, with some doubt."""

    def __init__(self, count, top):
        super().__init__()
        self.centres = nn.Parameter((torch.arange(count) + 0.5) * 250 / 255 * top / count)
        self.sharp = 50.0 * (count / top) ** 2

    def forward(self, pictures):
        return -self.sharp * (pictures.float().mean((1, 2, 3))[:, None] - self.centres) ** 2


def local(count, top=1.0, order=None, **others):
    model = Level(count, top)
    if order is not None:
        model.centres.data = model.centres.data[order]
    return teachers.from_torch(model, name="level", **others)


def remote(function, **others):
    return teachers.from_callable(lambda x: {"logits": function(x)}, fingerprint="far", name="far", **others)


def ask(path, teacher, pool, **others):
    return ResponseStore(str(path)).ask(teacher, pool, budget=COUNT, **others)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_a_good_teacher_is_asked_to_the_end(path, count):
    with warnings.catch_warnings(action="error"):
        transfer = ask(path, local(count), images(count))
    assert transfer.accounts == Accounts(paid=COUNT)
    assert (transfer.responses["logits"].argmax(1) == transfer.labels).double().mean() > 0.7


@pytest.mark.parametrize(("count", "most"), [(2, 64), (10, 64), (100, 128)])
def test_classes_in_another_order_end_it(path, count, most):
    store, teacher = ResponseStore(str(path)), local(count, order=torch.arange(count).roll(1))
    with pytest.raises(TeacherError, match=r"in another order of classes .* Compare the order") as caught:
        store.ask(teacher, images(count), budget=COUNT)
    paid = store.accounts().paid
    assert paid <= most
    assert f"{paid} calls were paid, and their answers are stored" in str(caught.value)
    # The same again is refused for nothing, by what is stored; and there is a way on.
    with pytest.raises(TeacherError, match="nothing was paid now"):
        store.ask(teacher, images(count), budget=COUNT)
    assert store.accounts().paid == paid
    assert store.ask(teacher, images(count), budget=COUNT, check_answers=False).accounts == Accounts(
        paid=COUNT - paid, served=paid
    )
    with pytest.warns(
        Notice, match="in another order of classes"
    ):  # nothing is left to pay: no run is blocked for ever
        assert store.ask(teacher, images(count), budget=COUNT).accounts == Accounts(served=COUNT)


@pytest.mark.parametrize("top", [255.0, 1 / 255])
def test_inputs_of_another_scale_end_it(path, top):
    """A model that expects bytes and is given [0, 1], and one that expects less than it is given."""
    with pytest.raises(TeacherError, match="Check the scale and the form of its inputs"):
        ask(path, local(10, top), images(10))
    assert ResponseStore(str(path)).accounts().paid == 64


@pytest.mark.parametrize("named", [False, True])
def test_too_few_answers_to_tell_are_said_to_be_so(path, named):
    """Sixteen answers of a hundred classes in another order; a teacher that names its classes needs no such test."""
    pool, order = images(100)[:16], torch.randperm(100, generator=torch.Generator().manual_seed(3))
    names = [pool.class_names[i] for i in order] if named else None
    teacher = local(100, order=order, class_names=names)
    if named:
        with warnings.catch_warnings(action="error"):
            ask(path, teacher, pool)
    else:
        with pytest.warns(Notice, match="16 labelled answers are too few to tell whether teacher 'level' is right"):
            ask(path, teacher, pool)
    with warnings.catch_warnings(action="error"):
        ask(path, teacher, pool)
        ask(f"{path}2", local(100), pool)


def test_what_may_be_chance_is_a_notice_when_all_is_paid(path):
    guesses = remote(lambda x: torch.randn(len(x), 10, generator=torch.Generator().manual_seed(0)))
    with pytest.warns(Notice, match="of teacher 'far': the answers are not better than chance"):
        assert ask(path, guesses, images(10)[:128], batch_size=128).accounts == Accounts(paid=128)


def test_a_constant_teacher_ends_it_also_without_labels(path):
    teacher = remote(lambda x: torch.ones(len(x), 10) * torch.arange(10) + 1e-7 * torch.randn(len(x), 10))
    for pool in (images(10), images(10).without_labels):
        with pytest.raises(TeacherError, match="the answers to different inputs are all the same"):
            ask(path, teacher, pool)
    assert ResponseStore(str(path)).accounts().paid == 64


@pytest.mark.parametrize("check_labels", [True, False])
def test_probabilities_are_told_once_and_asked_to_the_end(path, check_labels):
    model, pool = Level(10, 1.0), images(10)
    pool = pool if check_labels else pool.without_labels
    soft = remote(lambda x: model(x / 255).detach().softmax(1))
    with pytest.warns(Notice) as told:
        assert ask(path, soft, pool).accounts == Accounts(paid=COUNT)
    assert [str(it.message) for it in told] == [f"teacher 'far': {agreement.PROBABILITIES}."]
    with warnings.catch_warnings(action="error"):  # their logarithms sum to less than 1
        ask(f"{path}2", remote(lambda x: model(x / 255).detach().log_softmax(1)), pool)


def test_constant_embeddings_end_it(path):
    teacher = teachers.from_callable(lambda x: {"embedding": torch.ones(len(x), 3)}, fingerprint="1")
    with pytest.raises(TeacherError, match="all the same"):
        ask(path, teacher, images(10))


@pytest.mark.parametrize(("count", "right"), [(2, 0.65), (10, 0.3), (100, 0.08)])
def test_a_weak_but_honest_teacher_is_asked_to_the_end(path, count, right):
    generator = torch.Generator().manual_seed(0)

    def guess(pictures):
        labels = (pictures.float().mean((1, 2, 3)) * count / 250).long().clamp(0, count - 1)
        sure = torch.rand(len(labels), generator=generator) < right - 1 / count
        answer = torch.where(sure, labels, torch.randint(0, count, (len(labels),), generator=generator))
        return 3.0 * nn.functional.one_hot(answer, count)

    with warnings.catch_warnings(action="error"):
        transfer = ask(path, remote(guess), images(count))
    assert transfer.accounts == Accounts(paid=COUNT)


def test_the_first_request_goes_alone(path):
    sizes = []

    def answer(pictures):
        sizes.append(len(pictures))
        return torch.zeros(len(pictures), 10)

    with pytest.raises(TeacherError, match="all the same"):
        ask(path, remote(answer), images(10), batch_size=20, concurrency=8)
    assert sizes == [20]


def test_columns_come_in_the_order_of_the_pools_names(path):
    pool, order = images(10), torch.randperm(10, generator=torch.Generator().manual_seed(3))
    names = [pool.class_names[i] for i in order]
    plain = ask(path, local(10), pool).responses["logits"]
    teacher = local(10, order=order, class_names=names)
    store = ResponseStore(f"{path}2")
    transfer = store.ask(teacher, pool, budget=COUNT)
    assert torch.equal(transfer.responses["logits"], plain)
    assert transfer.pool.class_names == pool.class_names
    # What is stored keeps the teacher's order, so that another pool may have its own.
    other = pool.in_classes(names)
    assert torch.equal(store.ask(teacher, other, budget=0).responses["logits"], plain[:, order])
    assert reask(store, teacher, pool, count=5, budget=COUNT + 5, seed=0).difference == {"logits": 0.0}


def test_classes_that_differ_are_refused_before_a_call_is_paid(path):
    pool, store = images(3), ResponseStore(str(path))
    named = remote(lambda x: torch.zeros(len(x), 3), class_names=["kind 0", "kind 1", "owl"])
    for refuse in (store.plan, lambda t, p: store.ask(t, p, budget=COUNT)):
        with pytest.raises(UserError, match="it lacks kind 2 and also knows owl"):
            refuse(named, pool)
    for teacher, count in ((local(1000), 1000), (local(2), 2)):
        with pytest.raises(UserError, match=f"answers with {count} classes, but pictures has 3"):
            store.ask(teacher, pool, budget=COUNT)
    assert store.accounts() == Accounts()


def test_a_remote_teacher_of_other_width_is_stopped_after_one_request(path):
    store = ResponseStore(str(path))
    wide = remote(lambda x: torch.nn.functional.one_hot(x.float().mean((1, 2, 3)).long(), 1000))
    with pytest.raises(TeacherError, match=r"answers with 1000 classes, but pictures has 3; .* 64 calls were paid"):
        store.ask(wide, images(3), budget=COUNT)
    assert store.accounts() == Accounts(paid=64)


def test_without_labels_a_pool_takes_the_teachers_names(path):
    names = ("ant", "bee", "owl")
    teacher = remote(lambda x: x.float().flatten(1)[:, :3], class_names=names)
    assert ask(path, teacher, images(3).without_labels).pool.class_names == names


def test_the_plan_tells_how_right_what_is_stored_is(path):
    pool, store, teacher = images(10), ResponseStore(str(path)), local(10)
    assert store.plan(teacher, pool).accuracy is None
    transfer = store.ask(teacher, pool[:100], budget=COUNT)
    right = 100 * float((transfer.responses["logits"].argmax(1) == transfer.labels).double().mean())
    plan = store.plan(teacher, pool)
    assert (plan.accuracy, plan.labelled) == (pytest.approx(right), 100)
    assert store.plan(teacher, pool.without_labels).accuracy is None


def test_a_trial_comes_before_a_second_input_is_sent(path):
    seen, sizes = [], []

    def answer(pictures):
        sizes.append(len(pictures))
        return pictures.float().flatten(1)[:, :10]

    def refuse(answer):
        seen.append({name: tuple(value.shape) for name, value in answer.items()})
        raise UserError("not this one.")

    store = ResponseStore(str(path))
    for _ in range(2):  # the second time by what is stored
        with pytest.raises(UserError, match="not this one"):
            store.ask(remote(answer), images(10), budget=COUNT, trial=refuse)
    assert (seen, sizes, store.accounts().paid) == ([{"logits": (1, 10)}] * 2, [1], 1)
    counts = []
    transfer = store.ask(
        remote(answer),
        images(10)[:100],
        budget=COUNT,
        batch_size=10,
        trial=lambda _: None,
        check_answers=False,
        progress=lambda done, total: counts.append((done, total)),
    )
    assert transfer.accounts == Accounts(paid=99, served=1)
    assert counts[-1] == (99, 99)


def test_names_that_count_are_matched_as_names(path):
    pool = images(12)
    lexicographic = sorted(classes.numbers(12))
    counted = pool.in_classes([f"kind {name}" for name in lexicographic])
    counted = from_tensors(counted.inputs, counted.labels, class_names=lexicographic)
    teacher = local(12, class_names=classes.numbers(12))
    transfer = ask(path, teacher, counted)
    assert (transfer.responses["logits"].argmax(1) == transfer.labels).double().mean() > 0.7
