"""Students of a teacher that answers with labels alone."""

import pytest
import torch
from torch import nn

from tuition import ResponseStore, data, distill, teachers
from tuition.data import TransferSet
from tuition.data.transfer import by_class
from tuition.errors import UserError
from tuition.store import stepwise
from tuition.training import methods
from tuition.training.task_classes import softened

CLASSES = ["low", "high"]
DRAWN = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
POOL = data.from_tensors(DRAWN)
TRUTH = (DRAWN.sum(dim=1) > 2).long()


def votes(**others):
    return TransferSet(POOL, {"votes": torch.eye(2)[TRUTH], **others})


def trained(transfer, method, **settings):
    torch.manual_seed(0)
    student = nn.Linear(4, 2)
    return distill(student, transfer, method, epochs=30, learning_rate=0.1, batch_size=16, **settings)


def test_smoothing():
    transfer = softened(votes(), 0.2)
    assert transfer.responses["votes"][0].sort().values.tolist() == pytest.approx([0.1, 0.9])
    assert softened(votes(), 0).responses["votes"].equal(votes().responses["votes"])


def test_confidence_leaves_the_rest_to_others():
    transfer = TransferSet(POOL[:2], {"votes": torch.eye(4)[:2], "confidence": torch.tensor([[0.7], [1.0]])})
    soft = softened(transfer, 0).responses
    assert list(soft) == ["votes"]
    torch.testing.assert_close(soft["votes"], torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.0, 1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("method", ["ckd", "mse", "ce", "ckd_published", "mixup"])
def test_methods_that_learn_from_labels_alone(method):
    run = trained(
        votes()[:48], method, validation=votes()[48:], options={"recentre": True} if method == "ckd_published" else None
    )
    assert run.agreement > 80
    assert run.validation == run.history[run.best_epoch - 1]["validation"]


@pytest.mark.parametrize(
    "method",
    ["kd", "dkd", "standardised_kd", "rkd", "rkd_projected", "dist", "cc", "crd", lambda s, t, y: (s - t).mean()],
)
def test_methods_that_need_logits_refuse_labels(method):
    labelled = TransferSet(data.from_tensors(DRAWN, TRUTH), votes().responses)
    with pytest.raises(UserError, match="answers with labels alone; use ckd, mse, ce or mixup"):
        trained(labelled, method)


def test_every_method_is_decided():
    learn = {"ce", "mse", "ckd", "ckd_published", "mixup", "cutmix", "cutmix_pick", "tf_fd"}
    refuse = {"kd", "dkd", "standardised_kd", "rkd", "rkd_projected", "dist", "cc", "crd"}
    maps = {"fitnets", "fitnets_ckd", "vid", "vid_ckd"}  # a teacher of labels gives none
    assert set(methods.METHODS) == learn | refuse | maps


def test_another_smoothing_asks_nothing_again(tmp_path):
    asked = []

    def answer(inputs):
        asked.append(len(inputs))
        return [CLASSES[int(row.sum() > 2)] for row in inputs]

    teacher = teachers.from_callable(answer, fingerprint="1", class_names=CLASSES, hard_labels=True)
    store = ResponseStore(str(tmp_path / "r.db"))
    transfer = store.ask(teacher, POOL, budget=64)
    assert transfer.responses["votes"].equal(votes().responses["votes"])
    weights = []
    for smoothing in (0.0, 0.3):
        again = store.ask(teacher, POOL, budget=64)
        weights.append(trained(again, "ckd", smoothing=smoothing).student.model.weight.detach())
    assert sum(asked) == 64
    assert not torch.equal(*weights)


def test_columns_follow_the_classes_of_the_data(tmp_path):
    pool = data.from_tensors(DRAWN, 1 - TRUTH, class_names=["high", "low"])
    teacher = teachers.from_callable(lambda x: (x.sum(dim=1) > 2).long(), fingerprint="1", class_names=CLASSES)
    transfer = ResponseStore(str(tmp_path / "r.db")).ask(teacher, pool, budget=64)
    assert transfer.teacher_accuracy == 100
    assert by_class(transfer.responses).argmax(dim=1).equal(pool.labels)


def test_many_equal_labels_are_no_fault_by_themselves():
    assert stepwise.judge({"votes": torch.eye(2)[torch.zeros(20, dtype=torch.int64)]}, None).verdict == "good"
    assert stepwise.judge({"logits": torch.eye(2)[torch.zeros(20, dtype=torch.int64)]}, None).verdict == "bad"
