"""Several gloo processes against one: losses, whole models, runs.

Run as a script, `python test_parallel.py FOLDER`, it is the processes: groups of 2 and of 4, forked from one
interpreter that has imported everything, each process writing what it found to FOLDER.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
import weakref
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from tuition import UserError, data, distill, models
from tuition.cli import main as cli
from tuition.data import TransferSet
from tuition.training import Student, methods, parallel
from tuition.training.batches import Batches
from tuition.training.callbacks import Shown
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
        rank=parallel.rank(),
        processes=parallel.count(),
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
    for i, drawn in zip(range(2), batches.draw(), strict=False):
        batch = batches.batch(*drawn)
        read = {name: value[batch.rows] for name, value in outputs.items()}
        if batch.own is not None:
            rows = len(batch.rows)
            read = {name: parallel.gather(value[batch.own], batch.own, rows) for name, value in read.items()}
        terms = objective(read, batch)
        variables = [*outputs.values(), *objective.parameters()]
        gradients = torch.autograd.grad(sum(terms.values()), variables, allow_unused=True)
        gradients = [torch.zeros_like(v) if g is None else g for g, v in zip(gradients, variables, strict=True)]
        parallel.average(gradients)
        found |= {f"{i} term {name}": value.detach() for name, value in terms.items()}
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


def fail():
    raise UserError("fix it")


def refusals():
    """What is said where there is too little to share, or where the processes differ."""
    said = {}
    for name, try_it in {
        "rows": lambda: made("kd", batch_size=2),
        "groups": lambda: made("ckd_published", batch_size=3),
        "different": lambda: parallel.check_same(transfer_set=1, initial_weights=parallel.rank()),
        "first": lambda: parallel.first(lambda: 1 // 0),
        "first user": lambda: parallel.first(fail),
    }.items():
        try:
            try_it()
        except (ValueError, ZeroDivisionError, parallel.ElsewhereError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    said["told"] = parallel.first(lambda: {"from": parallel.rank()})
    return said


def reducers_left():
    """The reducers of gradients that outlive a training whose modules something keeps."""
    averaged, kept = parallel.averaged, []

    def keeping(module):
        shared = averaged(module)
        kept.append((shared, weakref.ref(shared.reducer)))
        return shared

    with mock.patch.object(parallel, "averaged", keeping):
        trained("kd")
    return [reducer() is not None for _, reducer in kept]


def everything():
    found = {f"given {method}": given_outputs(method) for method in methods.METHODS}
    return found | {f"trained {method}": trained(method) for method in methods.METHODS}


# -- whole runs --------------------------------------------------------------------------------------------------------


def run(out, method="crd", epochs=20, end_after=None, model=None, beside=False, **settings):
    """A run of a student with frozen batch norm; after the epoch `end_after` all processes are killed."""

    def end(done, total, figures):
        if done == end_after:
            os.killpg(0, signal.SIGKILL)

    digits = data.load("digits")
    right = 5 * F.one_hot(digits.labels[:ROWS], CLASSES)
    transfer = TransferSet(digits[:ROWS], {"logits": right + transfer_set().responses["logits"]})
    if beside:
        settings |= {"unasked": digits[120:200]}
    return distill(
        model or frozen(models.create("cnn_4", num_classes=CLASSES, in_channels=1, seed=0)),
        transfer,
        method,
        validation=digits[40:73],
        test=digits[80:120],
        out=out,
        callbacks=[Shown(end, epochs)],
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=0.02,
        checkpoint_seconds=0.0,
        **settings,
    )


BESIDE = {"method": "ckd", "epochs": 5, "beside": True}


def run_and_save(folder, out, **settings):
    """Every process tells what it returned."""
    found = run(folder / out, **settings)
    torch.save((found.student.state_dict(), found.results()), folder / f"{out}-{parallel.count()}-{parallel.rank()}.pt")


# The user's own code: a teacher that counts its calls, and students that fail in one of the processes.
USER = """
import os, signal, time
import torch
from torch import nn
from tuition import data, teachers

known = data.load("digits")

def answer(inputs):
    with open("log", "a") as log:
        log.write("x" * len(inputs))
    nearest = torch.cdist(inputs.flatten(1).float(), known.inputs.flatten(1).float()).argmin(dim=1)
    return {"logits": 5 * nn.functional.one_hot(known.labels[nearest], 10).float()}

def teacher():
    return teachers.from_callable(answer, fingerprint="neighbours, version 1", name="neighbours")

class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs):
        if self.training and len(inputs) > 2 and os.environ.get("RANK") == "1":  # not in the trial before
            self.fail()
        return self.layer(inputs.flatten(1))

class Mistaken(Student):
    def fail(self):
        raise RuntimeError("the student's own mistake")

class Killed(Student):
    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Interrupted(Student):
    def fail(self):
        os.killpg(0, signal.SIGINT)
        time.sleep(1)

class Diverging(Student):
    def fail(self):
        self.layer.weight.data.fill_(float("nan"))
"""
FAILURES = {
    "unknown": ["--method", "unknown"],
    "unseen": ["--data", "nowhere"],
    **{name: ["--student", f"user:{name}"] for name in ("Mistaken", "Killed", "Interrupted", "Diverging")},
}


def command(*arguments):
    """`tuition distill` in a process as torchrun starts it, with files for what it says."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{name}{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    usual = ["--teacher", "user:teacher", "--student", "cnn_4", "--calls", "16", "--epochs", "40", "--out", "run"]
    sys.argv = ["tuition", "distill", *usual, *arguments]
    sys.path.insert(0, "")
    return cli.main()


def together(world, do, store):
    """Exit codes of `do()` in forked processes of a group, negative where they were killed."""
    children = []
    for rank in range(world):
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.setpgid(0, children[0] if children else 0)
                if isinstance(store, dist.TCPStore):
                    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
                    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
                    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
                else:
                    store = dist.FileStore(store, world)
                    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
                code = do() or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        children.append(child)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, children[0])
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(folder):
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401  (for the curves of a run)
    import torch._dynamo  # noqa: F401  (which the first optimizer imports)

    data.load("digits")
    number = iter(range(100))

    def group(world, do):
        return together(world, do, f"{folder}/store{next(number)}")

    for world in WORLDS:
        assert group(world, lambda world=world: losses_and_models(folder, world)) == [0] * world
    killed = [-signal.SIGKILL]
    assert group(2, lambda: run_and_save(folder, "whole")) == [0, 0]
    assert group(2, lambda: run(folder / "resumed", end_after=3)) == 2 * killed
    assert group(2, lambda: run_and_save(folder, "resumed")) == [0, 0]
    assert group(2, lambda: run(folder / "changing", end_after=2)) == 2 * killed
    assert group(1, lambda: run(folder / "changing", end_after=4)) == killed
    assert group(4, lambda: run_and_save(folder, "changing")) == [0] * 4
    assert group(2, lambda: run_and_save(folder, "changing")) == [0, 0]  # finished: returned
    assert group(2, lambda: run(folder / "beside", **BESIDE, end_after=2)) == 2 * killed
    assert group(2, lambda: run_and_save(folder, "beside", **BESIDE)) == [0, 0]
    codes = {}
    for name, arguments in FAILURES.items():
        (folder / name).mkdir()
        os.chdir(folder / name)
        Path("user.py").write_text(USER)
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        codes[name] = together(2, lambda arguments=arguments: command(*arguments), store)
    (folder / "codes.json").write_text(json.dumps(codes))


def losses_and_models(folder, world):
    torch.save((everything(), refusals(), reducers_left()), folder / f"{world}-{parallel.rank()}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the processes wrote what they found."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, folder], env=environment, check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """{(processes, rank): what it found}."""
    return {(w, r): torch.load(folder / f"{w}-{r}.pt") for w in WORLDS for r in range(w)}


def check_equal(found, what, expected, tolerance):
    for (world, rank), (results, *_) in found.items():
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


def test_refusals_are_sentences(found):
    for (world, rank), (_, said, _) in found.items():
        assert f"batches of 2 rows are too small for {world} processes" in said["rows"]
        assert f"batches of 3 groups are too small for {world} processes" in said["groups"]
        assert said["different"].startswith("UserError: the processes do not have the same initial weights")
        assert said["first"].startswith("ElsewhereError: ZeroDivisionError" if rank else "ZeroDivisionError")
        assert said["first user"] == "UserError: fix it"
        assert said["told"] == {"from": 0}


def test_no_reducer_outlives_its_training(found):
    """The last to hold a process group ends its threads; a reducer would wait there with the interpreter's lock held,
    for which they may wait."""
    assert all(left == [False] for _, _, left in found.values())


def load(folder, out, world):
    return [torch.load(folder / f"{out}-{world}-{rank}.pt") for rank in range(world)]


def check_figures(found, expected, **tolerance):
    for name, value in expected.items():
        if name != "seconds":
            assert found[name] == (value if value is None else pytest.approx(value, **tolerance)), name


def test_killed_runs_resume_to_the_same_bits(folder):
    whole, resumed = load(folder, "whole", 2), load(folder, "resumed", 2)
    for weights, figures in (*whole, *resumed):
        assert all(weights[name].equal(value) for name, value in whole[0][0].items())
        check_figures(figures, whole[0][1], abs=0)
    for file in ("student.safetensors", "objective.safetensors"):  # CRD's memories and embeddings
        written, expected = (load_file(folder / out / file) for out in ("resumed", "whole"))
        assert all(written[name].equal(value) for name, value in expected.items())
    names = [sorted(path.name for path in (folder / out).iterdir()) for out in ("resumed", "whole")]
    assert names[0] == names[1]


def test_resumed_by_two_then_one_then_four_it_ends_as_one_process_does(folder, tmp_path):
    alone = run(tmp_path / "alone")
    assert alone.validation > 20, "something was learnt"
    for weights, figures in (*load(folder, "whole", 2), *load(folder, "changing", 4), *load(folder, "changing", 2)):
        for name, value in alone.student.state_dict().items():
            assert torch.allclose(weights[name], value, rtol=1e-4, atol=1e-6), name
        check_figures(figures, alone.results(), abs=0.01)


def test_unasked_inputs_are_shared_killed_and_resumed(folder, tmp_path):
    alone = run(tmp_path / "alone", **BESIDE)
    for weights, figures in load(folder, "beside", 2):
        for name, value in alone.student.state_dict().items():
            assert torch.allclose(weights[name], value, rtol=1e-4, atol=1e-6), name
        check_figures(figures, alone.results(), abs=0.01)


@pytest.mark.parametrize(
    ("name", "codes", "sentence"),
    [
        ("unknown", [2, 2], "Error: the method 'unknown' was not found"),
        ("unseen", [2, 2], "nowhere"),
        ("Mistaken", [1, 70], "Error: unexpected RuntimeError: the student's own mistake"),
        ("Killed", [1, -signal.SIGKILL], "Error: another process has ended; give the same command again"),
        ("Interrupted", [130, 130], "Stopped. Give the same command again"),
        ("Diverging", [2, 2], "Error: the loss term"),
    ],
)
def test_only_one_process_says_what_is_wrong(name, codes, sentence, folder):
    found = json.loads((folder / "codes.json").read_text())[name]
    said = "".join((folder / name / file).read_text() for file in ("stdout0", "stderr0", "stdout1", "stderr1"))
    assert found == codes, said
    assert said.count(sentence) == 1, said
    assert said.count("\n") == 1, said
    if name not in ("unknown", "unseen"):
        assert (folder / name / "log").read_text() == 16 * "x", "one process asked, once"


@pytest.mark.long
def test_torchrun_is_within_seed_noise_of_one_process(tmp_path):
    """On digits, with the command's own batch norm, by a real torchrun."""
    (tmp_path / "user.py").write_text(USER)
    settings = ["--teacher", "user:teacher", "--student", "cnn_4", "--calls", "320", "--epochs", "30", "--out", "run"]
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tuition"]
    done = subprocess.run(
        [*program, "distill", *settings],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Student cnn_4 of digits by ckd") == 1
    assert done.stderr.count("Files are in run.") == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["accounts"] == {"paid": 320, "served": 0, "failed": 0, "unknown": 0}
    assert (tmp_path / "log").read_text() == 320 * "x"
    alone = [one_process(tmp_path, seed) for seed in range(4)]
    noise = max(alone) - min(alone)
    assert min(alone) - noise <= record["results"]["accuracy"] <= max(alone) + noise, alone


def one_process(folder, seed):
    """Test accuracy of the same run by one process, on its own draw."""
    pool = data.load("digits")
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    answers = TransferSet(pool[order[:320]], {"logits": 5 * F.one_hot(pool.labels[order[:320]], 10).float()})
    test = data.load("digits", split="test")
    return distill("cnn_4", answers, validation=pool[order[-80:]], test=test, epochs=30, seed=seed).accuracy


if __name__ == "__main__":
    main(Path(sys.argv[1]))
