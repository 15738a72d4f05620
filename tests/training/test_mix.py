"""The option `mix` of ckd and mse: Mixup of inputs, cached answers and labels alike, in a share of the batches."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tuition import UserError, data, distill
from tuition.data import TransferSet
from tuition.training import methods
from tuition.training.objective import Batch
from tuition.training.task import Task

LINEAR = ("ckd", "mse")


def made(method, share, labels=True, responses=("logits",), **options):
    """An objective and a batch of 6 images of 3 classes."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (6, 1, 8, 8), generator=generator, dtype=torch.uint8)
    answers = {name: torch.randn(6, 3, generator=generator) for name in responses}
    known = torch.tensor([0, 1, 2, 2, 1, 0]) if labels else None
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    task = Task(known, answers, 3, 0, model, torch.zeros(2, 1, 8, 8))
    objective = methods.create(method, task, {"mix": share, **options})
    return objective, Batch(images, torch.arange(6), answers, F.one_hot(known, 3).float() if labels else None)


def naive(batch, generator):
    """All three mixed by one share with the same partners, row by row."""
    torch.rand((), generator=generator)
    order = torch.randperm(6, generator=generator).tolist()
    weight = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator))).beta(1, 1)

    def mixed(x):
        return torch.stack([weight * x[i].double() + (1 - weight) * x[order[i]].double() for i in range(6)])

    return mixed(batch.inputs) / 255, mixed(batch.responses["logits"]), mixed(batch.targets)


@pytest.mark.parametrize("method", LINEAR)
@pytest.mark.parametrize("seed", range(3))
def test_a_mixed_batch_and_its_terms_are_those_of_loops(method, seed):
    objective, batch = made(method, 1.0)
    mixed = objective.mix(batch, torch.Generator().manual_seed(seed))
    inputs, answers, labels = naive(batch, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(mixed.inputs.double(), inputs, rtol=1e-5, atol=1e-6)
    student = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = {name: float(value) for name, value in objective({"logits": student}, mixed).items()}
    expected = {}
    for name, target in ((method, answers), (f"{method}_label", labels)):
        residual = student - target
        expected[name] = 2 * float(residual.square().mean())
        if method == "ckd":
            pairs = [(residual[i] - residual[j]).square().mean() for i, j in itertools.permutations(range(6), 2)]
            expected[name] = float(sum(pairs) / len(pairs) + 0.1 * 2 * residual.mean(0).square().mean())
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", LINEAR)
def test_linear_answers_stay_right_on_mixes(method):
    """What a linear student answers rightly for every input it answers rightly for every mix."""
    objective, batch = made(method, 1.0, labels=False)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    batch = Batch(batch.inputs, batch.rows, {"logits": model(batch.inputs.float() / 255).detach()})
    mixed = objective.mix(batch, torch.Generator().manual_seed(0))
    assert not torch.allclose(mixed.responses["logits"], batch.responses["logits"], atol=1e-3)
    assert float(sum(objective({"logits": model(mixed.inputs).detach()}, mixed).values())) < 1e-10


@pytest.mark.parametrize("method", LINEAR)
def test_a_share_of_the_batches_is_mixed_and_the_others_are_as_they_were(method):
    objective, batch = made(method, 0.25)
    generator = torch.Generator().manual_seed(0)
    same = [objective.mix(batch, generator) is batch for _ in range(400)]
    assert 0.68 < sum(same) / 400 < 0.82
    assert made(method, 0.0)[0].mix is None
    assert made(method, 0.0)[0].terms[0].name == method


def test_other_answers_and_hard_labels_are_mixed_too(transfer):
    objective, batch = made("ckd", 1.0, responses=("logits", "embedding"), answer="embedding")
    mixed = objective.mix(batch, torch.Generator().manual_seed(0))
    assert mixed.responses["logits"] is batch.responses["logits"], "which is not compared"
    assert not torch.equal(mixed.responses["embedding"], batch.responses["embedding"])
    objective, batch = made("mse", 1.0, responses=("votes",))
    assert not torch.equal(objective.mix(batch, torch.Generator()).responses["votes"], batch.responses["votes"])


@pytest.mark.parametrize("method", LINEAR)
def test_runs_repeat_and_differ_from_those_without(transfer, method):
    given = {"epochs": 2, "batch_size": 16, "seed": 2}
    first, again, without = (
        distill("cnn_4", transfer, method, options=options, **given).student.state_dict()
        for options in ({"mix": 0.5}, {"mix": 0.5}, {})
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, without[name]) for name, value in first.items())


def test_what_cannot_be_mixed_is_refused():
    texts = TransferSet(data.from_tensors(["a b", "c d", "e f", "g h"]), {"logits": torch.randn(4, 3)})
    with pytest.raises(UserError, match="mix needs images or vectors, and the inputs are text; leave mix out"):
        distill("bag_8", texts, "ckd", options={"mix": 0.5}, epochs=1)
    task = Task(None, {"a": torch.zeros(4, 2, 3, 3)}, 3, 0, nn.Conv2d(1, 2, 6), torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match="mix needs an answer that is a vector, and a is a map"):
        methods.create("mse", task, {"mix": 0.5, "answer": "a"})
    with pytest.raises(UserError, match=r"options\.mix cannot be 1\.5"):
        methods.checked("ckd", {"mix": 1.5})
