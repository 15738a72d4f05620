"""Students of embeddings: what they learn from, what their figures are, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tuition import UserError, data, distill, load, losses
from tuition.data import TransferSet
from tuition.training import evaluation
from tuition.training.preflight import check

WIDTH = 6


def answer(inputs):
    """A nonlinear embedding of vectors (n, 5), of length 1, far from centred."""
    generator = torch.Generator().manual_seed(7)
    first, second = (torch.randn(size, generator=generator) for size in ((5, 12), (12, WIDTH)))
    return F.normalize((inputs @ first).relu() @ second + 1)


def embedded(count, seed):
    inputs = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return TransferSet(data.from_tensors(inputs), {"embedding": answer(inputs)})


@pytest.fixture(scope="module")
def transfer():
    return embedded(200, 0)


@pytest.fixture(scope="module")
def further():
    return embedded(50, 1)


def mlp(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, width))


GIVEN = {"epochs": 60, "learning_rate": 0.01, "optimizer": "adamw"}


@pytest.mark.parametrize("method", ["ckd", "mse", "rkd", "crd"])
def test_methods_read_embeddings_without_being_told(transfer, further, method):
    run = distill("mlp_32", transfer, method, validation=further, **GIVEN)
    assert run.student.embed(further.pool).shape == (50, WIDTH)
    found = evaluation.similarity_agreement(run.student.embed(further.pool), further.responses["embedding"])
    assert run.validation == pytest.approx(found, abs=1e-3)
    own = evaluation.similarity_agreement(run.student.embed(transfer.pool), transfer.responses["embedding"])
    assert run.agreement == pytest.approx(own, abs=1e-3)
    untrained = distill("mlp_32", transfer, method, validation=further, epochs=1, learning_rate=1e-9)
    assert run.validation > untrained.validation + 20
    assert (run.accuracy, run.top5) == (None, None)
    terms = set(run.history[0]) - {"epoch", "learning_rate", "loss", "validation", "images", "seconds"}
    assert terms == {method}, "kd and the terms on labels fall away"
    if method in ("ckd", "mse"):  # what only compares rows knows nothing of the teacher's axes
        assert F.cosine_similarity(run.student.embed(further.pool), further.responses["embedding"]).mean() > 0.9


def test_the_anchor_stays(transfer):
    run = distill("mlp_32", transfer, "ckd", epochs=1, batch_size=200, learning_rate=1e-9)
    student = run.student.train()
    with torch.no_grad():  # batch norm in the mode of training
        found = losses.ckd(student(transfer.inputs), transfer.responses["embedding"], anchor=0.1)
    assert run.history[0]["ckd"] == pytest.approx(float(found), rel=1e-4)


@pytest.mark.parametrize("method", ["ckd", "mse", "rkd"])
def test_another_width_meets_the_teacher_in_a_projector(transfer, further, method, tmp_path):
    from safetensors.torch import load_file

    run = distill(mlp(3), transfer, method, validation=further, out=tmp_path, **GIVEN)
    assert run.student.embed(further.pool).shape == (50, 3), "the student's own is what is kept"
    assert run.validation > 60
    assert (tmp_path / "objective.safetensors").exists() == (method != "rkd")
    if method != "rkd":
        weights = load_file(tmp_path / "objective.safetensors")
        assert (WIDTH, 3) in [tuple(value.shape) for value in weights.values()]


def test_a_student_of_embeddings_is_loaded_and_exported_as_one(transfer, further, tmp_path):
    import onnxruntime

    run = distill("mlp_32", transfer, "mse", validation=further, epochs=3, out=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["student"]["output"] == "embedding"
    assert record["results"]["agreement"] == run.agreement
    student = load(tmp_path / "run")
    assert torch.equal(student.embed(further.pool), run.student.embed(further.pool))
    again = distill("mlp_32", transfer, "mse", validation=further, epochs=3, out=tmp_path / "run")
    assert again.results() == run.results()
    for ask in (student.predict, student.logits, student.probabilities):
        with pytest.raises(UserError, match=r"answers with embeddings, not with classes; use student\.embed"):
            ask(further.pool)
    session = onnxruntime.InferenceSession(student.export(tmp_path / "s.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["embedding"], {"inputs": further.inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), student.embed(further.pool), rtol=1e-4, atol=1e-5)


def test_a_student_of_classes_embeds_by_its_penultimate_layer(transfer):
    labelled = data.from_tensors(transfer.inputs, (transfer.inputs[:, 0] > 0).long())
    run = distill("mlp_32", TransferSet(labelled, {}), "ce", epochs=2)
    assert torch.equal(run.student.embed(labelled), run.student.features(labelled))
    assert run.agreement is None


def test_labels_make_a_classifier_that_learns_from_embeddings_too(transfer, further):
    labels = (transfer.inputs[:, 0] > 0).long()
    both = TransferSet(data.from_tensors(transfer.inputs, labels), transfer.responses)
    run = distill("mlp_32", both, "ckd", epochs=20)
    assert run.student.predict(further.pool).max() == 1
    assert float((run.student.predict(both.pool) == labels).double().mean()) > 0.9


def test_embeddings_may_be_recentred(transfer):
    run = distill("mlp_32", transfer, "ckd", options={"anchor": 0, "recentre": True}, **GIVEN)
    torch.testing.assert_close(run.student.embed(transfer.pool).mean(0), transfer.responses["embedding"].mean(0))


@pytest.mark.parametrize(
    "method", ["kd", "dist", "cc", "rkd_projected", "ckd_published", "mixup", "cutmix", "cutmix_pick"]
)
def test_methods_of_logits_say_so(transfer, method):
    says = "compares logits, and the teacher answers with embeddings alone; use ckd, mse, rkd or crd"
    with pytest.raises(UserError, match=says):
        distill("mlp_32", transfer, method)
    with pytest.raises(UserError, match=says):
        check("mlp_32", transfer.pool, method, answer={"embedding": torch.zeros(1, WIDTH)})


def test_what_does_not_fit_is_refused(transfer, further):
    labelled = data.from_tensors(further.inputs, torch.zeros(50, dtype=torch.long))
    classes = TransferSet(further.pool, {"logits": torch.zeros(50, WIDTH)})
    for change, says in (
        ({"validation": labelled}, "validated on further answers of the teacher, a transfer set"),
        ({"test": labelled}, r"has no accuracy to test; leave the labelled inputs out \(test: null\)"),
        ({"validation": classes}, "have no embedding; ask the same teacher"),
        ({"objective": "ce"}, "learns from labels, and there are none"),
        ({"teacher_labels": True}, "needs a teacher that answers with classes"),
        ({"student": nn.Conv1d(1, 1, 1)}, "must return embedding of shape|cannot read inputs"),
        ({"student": mlp(3), "objective": "ckd", "options": {"recentre": True}}, "not through a projector"),
    ):
        with pytest.raises(UserError, match=says):
            distill(**{"student": "mlp_32", "transfer": transfer, **change})
    logits = replace(transfer, responses={"logits": transfer.responses["embedding"]})
    with pytest.raises(UserError, match="have no logits; ask the same teacher"):
        distill("mlp_32", logits, validation=further)
