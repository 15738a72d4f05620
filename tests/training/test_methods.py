"""Every method by its name alone: on digits, on CIFAR-100, and against its formula."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tuition import UserError, data, distill, losses, models, teachers
from tuition.data import TransferSet
from tuition.training import methods
from tuition.training.objective import Batch, Objective, Term
from tuition.training.task import Task

ROOT = Path(__file__).parents[2]
CIFAR = ROOT.parent / "shared" / "data" / "cifar100"


def answered(pool, net):
    """A transfer set with the net's logits and the maps of all its stages."""
    return TransferSet(pool, teachers.from_torch(net, layers=models.stages(net))(pool.asked()))


@pytest.fixture(scope="module")
def digits():
    pool = data.load("digits")
    net = models.create("cnn_4", num_classes=10, in_channels=1, seed=7)
    taught = distill(net, TransferSet(pool[300:], {}), "ce", epochs=4, preprocess=models.Preprocess([0.0], [1.0]))
    return answered(pool[:48], taught.student.model)


@pytest.mark.parametrize("method", list(methods.METHODS))
def test_trains_on_digits(method, digits):
    pool = data.load("digits")
    options = {"warm_up": 0} if method == "dkd" else {}  # its loss rises with its weight
    run = distill("cnn_4", digits, method, options=options, validation=pool[-20:], test=pool[:20], epochs=20, seed=1)
    first, last = run.history[0], run.history[-1]
    terms = set(first) - {"epoch", "learning_rate", "loss", "validation", "images", "seconds"}
    assert terms, "terms are logged one by one"
    assert last["loss"] == pytest.approx(sum(last[name] for name in terms), rel=1e-5)
    assert last["loss"] < first["loss"]


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.is_dir(), reason="CIFAR-100 is not beside the repository (../shared/data)")
@pytest.mark.parametrize("method", list(methods.METHODS))
def test_takes_a_few_steps_on_cifar100(method):
    pool = data.load(CIFAR, split="test")
    transfer = answered(pool[:24], models.create("resnet8", num_classes=100, seed=7))
    run = distill("resnet8", transfer, method, validation=pool[-8:], epochs=2)
    assert run.steps == 2
    assert all(torch.isfinite(value).all() for value in run.student.state_dict().values())


def objective_value(name, student, teacher, labels, **options):
    """Loss of an objective on given logits."""
    model = torch.nn.Linear(3, student.shape[1])
    task = Task(labels, {"logits": teacher}, student.shape[1], 0, model, torch.zeros(2, 3))
    objective = methods.create(name, task, options).eval()
    rows = torch.arange(len(student))
    batch = Batch(student, rows, {"logits": teacher}, F.one_hot(labels, student.shape[1]).float(), objective.groups)
    return float(sum(objective({"logits": student}, batch).values()))


def test_black_box_methods_are_the_papers_sums():
    generator = torch.Generator().manual_seed(0)
    s, z = torch.randn(8, 6, generator=generator), torch.randn(8, 6, generator=generator)
    y = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    one_hot = F.one_hot(y, 6).float()
    soft = F.kl_div((s / 4).log_softmax(1), (z / 4).softmax(1), reduction="batchmean") * 16
    ce = F.cross_entropy(s, y)
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    compared = sum(F.mse_loss(s[i] - s[j], t[i] - t[j]) for i, j in pairs for t in (z, one_hot)) / len(pairs)
    anchor = sum(0.1 * 2 / 6 * (s - t).mean(0).square().sum() for t in (z, one_hot))
    halves = sum(F.mse_loss(s[:4] - s[4:], t[:4] - t[4:]) for t in (z, one_hot))
    expected = {
        "ce": ce,
        "kd": soft + ce,
        "mse": 2 * F.mse_loss(s, z) + 2 * F.mse_loss(s, one_hot),
        "ckd": compared + anchor,
        "ckd_published": halves,
        "rkd": losses.rkd(s, z) + soft + ce,
        "rkd_projected": sum(F.mse_loss(s[i] - s[j], z[i] - z[j]) for i, j in pairs) / len(pairs) + soft + ce,
        "dkd": losses.dkd(s, z, y) / 20 + ce,
        "standardised_kd": 9 * losses.standardised_kd(s, z) + 0.1 * ce,
        "dist": 2 * losses.dist(s, z) + soft + ce,
        "cc": 0.02 * losses.cc(s, z) + soft + ce,
    }
    for name, value in expected.items():
        options = {"dimensions": 100} if name == "rkd_projected" else {}
        assert objective_value(name, s, z, y, **options) == pytest.approx(float(value), rel=1e-5), name
    assert objective_value("ckd", s, z, y, anchor=0) == pytest.approx(float(compared), rel=1e-5)


def test_label_terms_fall_away_without_labels(digits):
    unlabelled = TransferSet(digits.pool.without_labels, digits.responses)
    for name, lost in {"kd": "ce", "ckd": "ckd_label", "mse": "mse_label", "mixup": "ce", "rkd": "ce"}.items():
        with_labels = distill("cnn_4", digits, name, epochs=1).history[0]
        without = distill("cnn_4", unlabelled, name, epochs=1).history[0]
        assert set(with_labels) - set(without) == {lost}
    with pytest.raises(UserError, match="labels"):
        distill("cnn_4", unlabelled, "ce", epochs=1)
    history = distill("cnn_4", unlabelled, "kd", epochs=1, teacher_labels=True).history[0]
    assert "ce" in history


def test_unequal_widths_meet_in_a_projector():
    pool = data.load("digits").sample(32, seed=0)
    generator = torch.Generator().manual_seed(0)
    responses = {name: torch.randn(32, d, generator=generator) for name, d in (("logits", 10), ("embedding", 24))}
    run = distill(
        "cnn_4",
        TransferSet(pool, responses),
        "ckd",
        options={"reads": "classifier:input", "answer": "embedding"},
        epochs=20,
    )
    assert run.history[-1]["ckd"] < run.history[0]["ckd"]


@pytest.mark.parametrize(("method", "name", "still"), [("crd", "memory_student", -1.0), ("vid", "log_scale", 4.99324)])
def test_what_a_method_learns_is_saved_with_the_run(method, name, still, digits, tmp_path):
    """CRD's memories and VID's variances, moved away from where they began (log_scale at softplus^-1 of 5)."""
    run = distill("cnn_4", digits, method, epochs=3, out=tmp_path / "run")
    saved = load_file(run.directory / "objective.safetensors")
    found = next(value for key, value in saved.items() if key.endswith(name))
    assert torch.isfinite(found).all()
    assert (found - still).abs().max() > 1e-3
    distill("cnn_4", digits, "kd", epochs=1, out=tmp_path / "stateless")
    assert not (tmp_path / "stateless" / "objective.safetensors").exists()


def test_unknown_method_and_setting_name_the_nearest(digits):
    with pytest.raises(UserError, match="did you mean rkd"):
        distill("cnn_4", digits, "rdk")
    with pytest.raises(UserError, match="did you mean anchor"):
        distill("cnn_4", digits, "ckd", options={"ancor": 1.0})
    with pytest.raises(UserError, match="no response 'stage2'"):
        distill("cnn_4", TransferSet(digits.pool, {"logits": digits.responses["logits"]}), "fitnets")


def test_an_objective_of_ones_own(digits):
    term = Term("absolute", lambda student, batch: (student - batch.responses["logits"]).abs().mean(), weight=3.0)
    run = distill("cnn_4", digits, Objective([term]), epochs=3)
    assert set(run.history[0]) >= {"absolute"}
