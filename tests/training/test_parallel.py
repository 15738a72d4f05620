"""Several gloo processes against one: losses, whole models, runs.

Run as a script, `python test_parallel.py FOLDER`, it is the processes: groups of 2 and of 4, forked from one
interpreter that has imported everything, each process writing what it found to FOLDER.
"""

import os
import subprocess
import sys
import traceback

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tuition import UserError, data, losses, models
from tuition.data import TransferSet
from tuition.training import Student, methods, parallel
from tuition.training.batches import Batches
from tuition.training.loop import train
from tuition.training.settings import TrainSettings

ROWS, BATCH, CLASSES = 33, 11, 10  # in three batches that neither 2 nor 4 processes share evenly
WORLDS = (2, 4)


def transfer_set():
    """Made-up images and labels, with answers and maps as a cnn_4 would give them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (ROWS, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(ROWS) % CLASSES
    pool = data.from_tensors(images, labels, augment=data.Crop(padding=1))
    answers = {"logits": torch.randn(ROWS, CLASSES, generator=generator)}
    for path, shape in maps().items():
        answers[path] = torch.randn(ROWS, *shape, generator=generator).relu()
    return TransferSet(pool, answers)


def maps():
    net = models.create("cnn_4", num_classes=CLASSES, in_channels=1, seed=0).eval()
    with models.Capture(net, models.stages(net)) as captured:
        net(torch.zeros(2, 1, 8, 8))
        return {path: tuple(captured[path].shape[1:]) for path in models.stages(net)}


def frozen(module):
    """Batch norm keeps its statistics, also in training: those of a share are not those of the batch."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
            part.train = lambda mode=True, part=part: part
    return module


def made(method, batch_size=BATCH):
    """A student, objective and batches in float64, without randomness in batch norm."""
    transfer = transfer_set()
    model = frozen(models.create("cnn_4", num_classes=CLASSES, in_channels=1, seed=0))
    student = Student(model, models.Preprocess.fit(transfer.pool.inputs), input_shape=(1, 8, 8))
    example = student.preprocess(transfer.pool.inputs[:2])
    task = methods.Task(transfer.labels, transfer.responses, CLASSES, 0, model, example)
    objective = frozen(methods.create(method, task)).double().train()
    batches = Batches(
        transfer,
        objective,
        batch_size=batch_size,
        augment=transfer.pool.augment,
        num_classes=CLASSES,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
        aligned=True,
    )
    return student, objective, batches


def given_outputs(method):
    """Terms, gradients and the objective's state after each of two batches, of outputs that are given."""
    _, objective, batches = made(method)
    generator = torch.Generator().manual_seed(1)
    shapes = {"logits": (CLASSES,)} | {path: maps()[path] for path in objective.reads}
    outputs = {
        name: torch.randn(ROWS, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for name, shape in shapes.items()
    }
    found = {}
    for i, (rows, views) in zip(range(2), batches.draw(), strict=False):
        batch = batches.batch(rows, views)
        terms = objective({name: value[batch.rows] for name, value in outputs.items()}, batch)
        variables = [*outputs.values(), *objective.parameters()]
        gradients = torch.autograd.grad(sum(terms.values()), variables, allow_unused=True)
        gradients = [torch.zeros_like(v) if g is None else g for g, v in zip(gradients, variables, strict=True)]
        terms = {name: value.detach() for name, value in terms.items()}
        parallel.average([*terms.values(), *gradients])
        found |= {f"{i} term {name}": value for name, value in terms.items()}
        found |= {f"{i} gradient {k}": value for k, value in enumerate(gradients)}
        found |= {f"{i} state {name}": value.clone() for name, value in objective.state_dict().items()}
    return found


def trained(method):
    """Weights and figures after two epochs."""
    student, objective, batches = made(method)
    student.double()
    student.preprocess = nn.Sequential(student.preprocess, Double())
    settings = TrainSettings(epochs=2, learning_rate=0.01, batch_size=BATCH)
    state, weights = train(student, objective, batches, settings)
    return weights | {f"epoch {row['epoch']} {k}": torch.tensor(v) for row in state.history for k, v in row.items()}


class Double(nn.Module):
    def forward(self, x):
        return x.double()


def loss_alone(anchor):
    """`losses.ckd` over rows of which a process may have none, in the two dtypes and with large constants."""
    generator = torch.Generator().manual_seed(2)
    found = {}
    for dtype in (torch.float64, torch.float32):
        student, teacher = (100 + torch.randn(3, 5, 2, generator=generator).to(dtype) for _ in range(2))
        student.requires_grad_()
        mine = torch.arange(3).tensor_split(parallel.count())[parallel.rank()]
        group = dist.group.WORLD if parallel.count() > 1 else None
        loss = losses.ckd(student[mine], teacher[mine], anchor=anchor, group=group)
        (gradient,) = torch.autograd.grad(loss, student)
        parallel.average([gradient])
        found |= {f"{dtype} value": loss.detach(), f"{dtype} gradient": gradient}
    return found


def refusals():
    """What is said where there is too little to share, or where the processes differ."""
    said, one, mine = {}, torch.zeros(1, 2), torch.arange(1).tensor_split(parallel.count())[parallel.rank()]
    for name, try_it in {
        "one row": lambda: losses.ckd(one[mine], one[mine], group=dist.group.WORLD),
        "rows": lambda: made("kd", batch_size=2),
        "groups": lambda: made("ckd_published", batch_size=3),
        "different": lambda: parallel.check_same(transfer_set=1, initial_weights=parallel.rank()),
        "first": lambda: parallel.first(lambda: 1 // 0),
    }.items():
        try:
            try_it()
        except (ValueError, UserError, ZeroDivisionError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    said["told"] = parallel.first(lambda: {"from": parallel.rank()})
    return said


def everything():
    found = {f"given {method}": given_outputs(method) for method in methods.METHODS}
    found |= {f"trained {method}": trained(method) for method in methods.METHODS}
    return found | {f"ckd {anchor}": loss_alone(anchor) for anchor in (0.0, 0.3)}


def main(folder):
    for world in WORLDS:
        children = []
        for rank in range(world):
            if (child := os.fork()) == 0:
                code = 1
                try:
                    store = dist.FileStore(f"{folder}/store{world}", world)
                    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
                    torch.save((everything(), refusals()), f"{folder}/{world}-{rank}.pt")
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            children.append(child)
        if any(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children):
            sys.exit(1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{(processes, rank): what it found}."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, folder], env=environment, check=True, timeout=300)
    return {(w, r): torch.load(folder / f"{w}-{r}.pt") for w in WORLDS for r in range(w)}


def check_equal(found, what, expected, tolerance):
    for (world, rank), (results, _) in found.items():
        assert results[what].keys() == expected.keys()
        for name, value in expected.items():
            if not name.endswith("seconds"):
                error = (results[what][name].double() - value.double()).abs().max().item() if value.numel() else 0.0
                scale = max(1.0, value.double().abs().max().item())
                assert error <= tolerance * scale, f"{what}, {name}, process {rank} of {world}: {error}"


@pytest.mark.parametrize("method", list(methods.METHODS))
def test_given_outputs_lose_nothing(method, found):
    expected = given_outputs(method)
    assert any(name.startswith("0 term") and value.abs() > 1e-6 for name, value in expected.items())
    check_equal(found, f"given {method}", expected, 1e-10)


@pytest.mark.parametrize("method", list(methods.METHODS))
def test_whole_models_end_in_the_same_weights(method, found):
    expected = trained(method)
    check_equal(found, f"trained {method}", expected, 1e-9)


@pytest.mark.parametrize("anchor", [0.0, 0.3])
def test_ckd_over_processes_of_which_some_have_no_row(anchor, found):
    check_equal(found, f"ckd {anchor}", loss_alone(anchor), 1e-6)
    for results, _ in found.values():
        for what in ("value", "gradient"):
            name = f"{torch.float64} {what}"
            assert (results[f"ckd {anchor}"][name] - loss_alone(anchor)[name]).abs().max() < 1e-12


def test_refusals_are_sentences(found):
    for (world, rank), (_, said) in found.items():
        assert said["one row"].startswith("ValueError: ckd compares pairs")
        assert f"batches of 2 rows are too small for {world} processes" in said["rows"]
        assert f"batches of 3 groups are too small for {world} processes" in said["groups"]
        assert said["different"].startswith("UserError: the processes do not have the same initial weights")
        assert said["first"].startswith("ZeroDivisionError"), rank
        assert said["told"] == {"from": 0}


if __name__ == "__main__":
    main(sys.argv[1])
