"""One run from end to end: what it returns, what it writes, how it goes on after an interruption, what it refuses."""

import copy
import csv
import json
import re
import struct
import unittest.mock
import zlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from tuition import UserError, data, distill, load, models
from tuition.data import Accounts, TransferSet
from tuition.training import Objective, TrainSettings, train_teacher
from tuition.training.callbacks import Shown
from tuition.training.evaluation import percent
from tuition.training.objective import Term

FILES = ["README.md", "checkpoint.bin", "curves.png", "metrics.csv", "run.json", "student.safetensors"]


@pytest.fixture(scope="module")
def validation(pool):
    return pool[64:104]


@pytest.fixture(scope="module")
def test(pool):
    return pool[104:]


def weights(run):
    return run.student.state_dict()


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Own(nn.Module):
    """A student that is not of the zoo."""

    def __init__(self, classes=10, hidden=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, inputs):
        return self.layers(inputs)


# -- what a run returns ------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_weights_returned(transfer, validation, test):
    run = distill("cnn_4", transfer, "kd", validation=validation, test=test, epochs=8, learning_rate=0.2)
    evaluated = run.student.evaluate(test)
    assert (run.accuracy, run.top5) == (evaluated.accuracy, evaluated.top5)
    assert run.calibration_error == pytest.approx(evaluated.calibration_error)
    assert run.validation == run.student.evaluate(validation).accuracy
    assert run.validation == max(row["validation"] for row in run.history)
    best = [row["epoch"] for row in run.history if row["validation"] == run.validation]
    assert run.best_epoch == best[-1]
    assert run.agreement == percent(run.student.predict(transfer.pool) == transfer.responses["logits"].argmax(1))
    assert run.images_seen == 8 * 64
    assert not run.student.training
    # The last epoch's accuracy is that of the same run without validation, which ends in the last weights.
    last = distill("cnn_4", transfer, "kd", test=test, epochs=8, learning_rate=0.2)
    assert (last.accuracy, last.accuracy_last) == (run.accuracy_last, run.accuracy_last)
    assert (last.validation, last.best_epoch) == (None, 8)


def test_seeds_repeat_and_global_random_state_is_left_alone(transfer, validation):
    state = torch.get_rng_state()
    runs = [distill("cnn_4", transfer, validation=validation, epochs=2, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_a_module_is_copied_not_changed(transfer):
    model = Own()
    before = copy.deepcopy(model.state_dict())
    run = distill(model, transfer, "ckd", epochs=2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not torch.equal(before["layers.1.weight"], weights(run)["model.layers.1.weight"])
    assert isinstance(run.student.model, Own)


def test_without_labels_validation_is_agreement_with_answers(transfer, pool):
    generator = torch.Generator().manual_seed(1)
    answers = TransferSet(pool[64:104].without_labels, {"logits": torch.randn(40, 10, generator=generator)})
    unlabelled = replace(transfer, pool=transfer.pool.without_labels)
    run = distill("cnn_4", unlabelled, "ckd", validation=answers, epochs=5)
    assert run.validation == percent(run.student.predict(answers.pool) == answers.responses["logits"].argmax(1))
    assert "ckd_label" not in run.history[0]
    assert run.accuracy is None


def test_vectors_have_students_too():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 5, generator=generator)
    labels = (inputs[:, 0] > 0).long()
    pool = data.from_tensors(inputs, labels)
    logits = torch.stack([-4 * inputs[:, 0], 4 * inputs[:, 0]], dim=1)
    run = distill("mlp_16", TransferSet(pool[:40], {"logits": logits[:40]}), "mse", test=pool[40:], epochs=40)
    assert run.accuracy >= 90
    assert run.student.input_shape == (5,)


def test_python_is_silent_unless_progress_is_requested(transfer, capsys):
    distill("cnn_4", transfer, epochs=2)
    assert capsys.readouterr() == ("", "")
    with unittest.mock.patch("tuition.progress.SECONDS", 0.0):
        distill("cnn_4", transfer, epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"^epochs: 2 of 2, loss [\d.]+$", err, re.M)


def test_settings_are_one_object_or_keywords_or_both(transfer):
    whole = distill("cnn_4", transfer, settings=TrainSettings(epochs=2, learning_rate=0.01))
    single = distill("cnn_4", transfer, epochs=2, learning_rate=0.01)
    both = distill("cnn_4", transfer, settings=TrainSettings(epochs=9, learning_rate=0.01), epochs=2)
    assert same(whole, single)
    assert same(whole, both)
    with pytest.raises(UserError, match="did you mean epochs"):
        distill("cnn_4", transfer, settings=TrainSettings(), epoch=2)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 0}, "the setting epochs cannot be 0: input should be greater than or equal to 1."),
        ({"epoch": 3}, "there is no setting 'epoch'; did you mean epochs?"),
        ({"epochs": True}, "the setting epochs cannot be true; give it a value."),
        ({"mean": [0.3]}, "mean and std belong together; give both or none."),
    ],
)
def test_settings_made_in_python_are_refused_by_one_sentence(values, sentence):
    with pytest.raises(UserError) as refused:
        TrainSettings(**values)
    assert str(refused.value) == sentence


def test_a_run_shows_itself_in_two_lines(transfer, test, tmp_path):
    run = distill("cnn_4", transfer, "kd", test=test, epochs=1, out=tmp_path / "run")
    first, second = repr(run).splitlines()
    assert first == f"Run: cnn_4 trained by kd, in {tmp_path / 'run'}"
    assert second.strip() == (
        f"accuracy {run.accuracy:.2f} %, agreement {run.agreement:.2f} %, 1 epoch in {run.seconds:,.1f} s, "
        "0 teacher calls paid"
    )
    assert repr(distill("cnn_4", transfer, "kd", test=test, epochs=1, out=tmp_path / "run")) == repr(run)
    assert "<strong>Run: cnn_4 trained by kd" in run._repr_html_()


# -- files -------------------------------------------------------------------------------------------------------------


def test_metrics_grow_while_a_student_is_trained(transfer, tmp_path):
    path = tmp_path / "metrics.csv"
    seen = []

    def stop(done, epochs, figures):
        seen.append(path.read_text().splitlines())
        if done == stops:
            raise KeyboardInterrupt

    stops = 3
    with pytest.raises(KeyboardInterrupt):
        distill("cnn_4", transfer, epochs=5, out=tmp_path, callbacks=[Shown(stop, 5)])
    assert [len(lines) for lines in seen] == [2, 3, 4], "a header and a row an epoch"
    path.write_text(path.read_text() + "torn")
    stops = 0
    distill("cnn_4", transfer, epochs=5, out=tmp_path, callbacks=[Shown(stop, 5)])
    assert [len(lines) for lines in seen[3:]] == [5, 6]
    assert [lines[:4] for lines in seen[3:]] == [seen[2], seen[2]]
    assert path.read_text().splitlines() == seen[-1]


def test_files_of_a_run(transfer, validation, test, tmp_path):
    paid = replace(transfer, accounts=Accounts(paid=60, served=4), teacher="big")
    run = distill(
        "cnn_4", paid, validation=validation, test=test, epochs=3, out=tmp_path / "run", described={"from": "a test"}
    )
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "done"
    assert record["results"] == run.results()
    assert record["accounts"] == {"paid": 60, "served": 4, "failed": 0, "unknown": 0}
    assert record["settings"]["from"] == "a test"
    assert record["settings"].items() >= TrainSettings(epochs=3).model_dump().items()
    assert record["settings"]["student"] == {"name": "cnn_4", "num_classes": 10, "in_channels": 1}
    assert record["versions"]["torch"] == torch.__version__
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == run.history
    assert list(rows[0])[:3] == ["epoch", "learning_rate", "loss"]
    assert {"ckd", "ckd_label", "validation", "images", "seconds"} <= set(rows[0])
    width, height, ink = _picture((tmp_path / "run" / "curves.png").read_bytes())
    assert (width, height) == (1260, 476)
    assert ink > 0.01, "an empty picture"


def test_a_finished_run_is_returned_as_it_was(transfer, validation, test, tmp_path):
    settings = {"validation": validation, "test": test, "epochs": 3, "out": tmp_path / "run"}
    first = distill("cnn_4", transfer, **settings)
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    again = distill("cnn_4", transfer, **settings)
    assert same(first, again)
    assert again.results() == first.results()
    assert again.history == first.history
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == stamps


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"epochs": 1}, "epochs: 2 there, 1 now"),
        ({"epochs": 4, "seed": 1}, "seed: 0 there, 1 now"),
        ({"learning_rate": 0.1}, "learning_rate: 0.05 there, 0.1 now"),
        ({"objective": "kd"}, "method: 'ckd' there, 'kd' now"),
        ({"options": {"anchor": 0.5}}, "options: {} there, {'anchor': 0.5} now"),
        ({"student": "cnn_8"}, "student: {'name': 'cnn_4'"),
        ({"transfer": 1}, "transfer_digest"),
        ({"test": None}, "test_digest"),
    ],
)
def test_a_run_of_other_settings_is_refused_and_left_alone(transfer, test, tmp_path, change, says):
    given = {"student": "cnn_4", "transfer": transfer, "objective": "ckd", "test": test, "epochs": 2, "seed": 0}
    distill(**given, out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if "transfer" in change:
        change = {"transfer": replace(transfer, responses={"logits": transfer.responses["logits"] + 1})}
    with pytest.raises(UserError, match="holds a run with other settings") as caught:
        distill(**given | change, out=tmp_path)
    assert says in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    distill(**given, out=tmp_path, checkpoint_seconds=0.0, device="cpu")  # these are free to change


def test_modules_and_objectives_of_ones_own_are_told_apart(transfer, tmp_path):
    model = Own()
    distill(model, transfer, "kd", epochs=1, out=tmp_path / "a")
    distill(model, transfer, "kd", epochs=1, out=tmp_path / "a")
    with pytest.raises(UserError, match="initial_digest"):
        distill(Own(), transfer, "kd", epochs=1, out=tmp_path / "a")

    def objective(weight):
        return Objective([Term("sum", lambda student, batch: student.square().mean(), weight)])

    distill("cnn_4", transfer, objective(1.0), epochs=1, out=tmp_path / "b")
    with pytest.raises(UserError, match=r"method: '1 sum\(logits\)' there, '2 sum\(logits\)' now"):
        distill("cnn_4", transfer, objective(2.0), epochs=1, out=tmp_path / "b")


def test_a_module_of_ones_own_is_loaded_with_its_code(transfer, validation, tmp_path):
    class Brighten(nn.Module):
        def forward(self, inputs):
            return inputs.float() / 100

    run = distill(Own(), transfer, "kd", epochs=2, out=tmp_path, preprocess=Brighten())
    again = distill(Own(), transfer, "kd", epochs=2, out=tmp_path / "other", preprocess=Brighten())
    assert again.student is not run.student
    with pytest.raises(UserError, match=r"pass it: load\(run, model=my_module\)"):
        load(tmp_path)
    student = load(tmp_path, model=Own(), preprocess=Brighten())
    assert torch.equal(student.logits(validation), run.student.logits(validation))


def test_a_teacher_has_a_card(pool, validation, test, tmp_path):
    run = train_teacher("cnn_4", pool[:64], validation=validation, test=test, epochs=2, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *FILES[:5],
        "teacher.safetensors",
    ]
    card = (tmp_path / "README.md").read_text()
    assert "| data | digits train, 64 inputs to train on |" in card
    assert f"| test accuracy, weights of the best validation | {run.accuracy:.2f} |" in card
    assert run.agreement is None
    assert torch.equal(load(tmp_path).logits(test), run.student.logits(test))


def _picture(png):
    """Width, height and the share of rows that are not of one colour: enough to tell a plot from an empty page."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (depth, kind) == (8, 6)
    at, packed = 8, b""
    while at < len(png):
        length, name = struct.unpack(">I4s", png[at : at + 8])
        packed += png[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        at += length + 12
    rows = zlib.decompress(packed)
    stride = 4 * width + 1
    busy = sum(len(set(rows[i * stride + 1 : (i + 1) * stride])) > 3 for i in range(height))
    return width, height, busy / height


# -- going on after an interruption ------------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "schedule"),
    [("ckd", "cosine"), ("ckd", "stages"), ("ckd_published", "cosine"), ("crd", "stages"), ("mixup", "cosine")],
)
def test_an_interrupted_run_ends_in_the_same_weights(transfer, validation, test, tmp_path, method, schedule):
    """Interrupted after every epoch, and begun again: weights, figures and history are the same to the bit."""
    given = {"validation": validation, "test": test, "schedule": schedule, "patience": 1, "epochs": 4}
    whole = distill("cnn_4", transfer, method, **given, out=tmp_path / "whole")

    def stop(done, total, figures):
        if done > len(stops):
            stops.append(done)
            raise StoppedError

    stops = []
    for _ in range(whole.epochs):
        with pytest.raises(StoppedError):
            distill("cnn_4", transfer, method, **given, out=tmp_path / "parts", callbacks=[Shown(stop, 4)])
        assert (tmp_path / "parts" / "checkpoint.bin").exists(), "whatever stops a training, it is written first"
    run = distill("cnn_4", transfer, method, **given, out=tmp_path / "parts")
    assert same(run, whole)
    timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]
    assert timeless == [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]
    assert {k: v for k, v in run.results().items() if k != "seconds"} == {
        k: v for k, v in whole.results().items() if k != "seconds"
    }
    learnt = ["objective.safetensors"] if method == "crd" else []
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == sorted(FILES + learnt)
    for name in learnt:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_checkpoint_is_said_and_nothing_is_lost(transfer, tmp_path):
    whole = distill("cnn_4", transfer, epochs=3, out=tmp_path / "whole")

    def stop(done, total, figures):
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        distill("cnn_4", transfer, epochs=3, out=tmp_path / "run", callbacks=[Shown(stop, 3)], checkpoint_seconds=0.0)
    checkpoint = tmp_path / "run" / "checkpoint.bin"
    content = checkpoint.read_bytes()
    for damaged in (content[:-1], content[:1000] + b"x" + content[1001:], b"", b"nonsense"):
        checkpoint.write_bytes(damaged)
        with pytest.raises(UserError, match=r"checkpoint .* is damaged; delete it to train this run from its start"):
            distill("cnn_4", transfer, epochs=3, out=tmp_path / "run")
        assert checkpoint.read_bytes() == damaged
    checkpoint.unlink()
    assert same(distill("cnn_4", transfer, epochs=3, out=tmp_path / "run"), whole)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "done"}', "\udcff"])
def test_a_damaged_record_is_said(transfer, tmp_path, content):
    (tmp_path / "run.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    for act in (lambda: distill("cnn_4", transfer, epochs=1, out=tmp_path), lambda: load(tmp_path)):
        with pytest.raises(UserError, match=r"run\.json cannot be read .*; restore it, or make the run again"):
            act()


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_before_training(transfer, pool, tmp_path):
    named = [f"kind {i}" for i in range(7)]
    narrow = data.from_tensors(pool.inputs[:9], pool.labels[:9] % 7, class_names=named)
    wide = data.from_tensors(torch.zeros(9, 1, 12, 12, dtype=torch.uint8), [0] * 9)
    nan = transfer.responses["logits"].clone()
    nan[3, 2] = float("nan")
    cases = [
        ({"student": Own(classes=7)}, "the student answers with 7 classes, but the task has 10"),
        ({"student": models.create("cnn_4", num_classes=10)}, r"cannot read inputs of shape \(1, 8, 8\)|of 1 channels"),
        ({"student": nn.Conv2d(1, 10, 8)}, "must return logits of shape"),
        ({"transfer": replace(transfer, responses={"logits": nan})}, "the teacher's logits hold NaN"),
        ({"transfer": replace(transfer, responses={"logits": nan[:60]})}, "64 inputs but 60 responses 'logits'"),
        ({"transfer": TransferSet(transfer.pool, {"logits": torch.zeros(64, 9)})}, "9 classes, but the data has 10"),
        ({"transfer": TransferSet(transfer.pool.without_labels, {})}, "has no response .logits."),
        ({"test": pool.without_labels}, "no labels to evaluate by"),
        ({"validation": pool.without_labels}, "no labels to evaluate by"),
        ({"test": wide}, r"takes inputs of shape \(1, 8, 8\), not \(1, 12, 12\)"),
        ({"validation": narrow}, "has 7 classes, but the model knows 10 of other names"),
        ({"objective": Objective([Term("a", lambda s, b: s.sum())]), "options": {"a": 1}}, "an Objective has its own"),
        ({"settings": {"epochs": 2}}, "settings is a TrainSettings, not a dict"),
        ({"transfer": pool}, "a student learns from inputs with a teacher's answers, not a Pool"),
        ({"epochs": 0}, "the setting epochs cannot be 0: input should be greater than or equal to 1"),
        ({"epoch": 1}, "there is no setting 'epoch'; did you mean epochs"),
        ({"learning_rate": float("inf")}, "the setting learning_rate cannot be inf"),
        (
            {"schedule": "cosin"},
            "the setting schedule cannot be 'cosin': input should be 'cosine', 'stages' or 'milestones'",
        ),
        ({"device": "gpu"}, "the device 'gpu' is not available; use device: auto or cpu"),
        ({"device": "cuda:99"}, "the device 'cuda:99' is not available"),
    ]
    for change, says in cases:
        given = {"student": "cnn_4", "transfer": transfer, "out": tmp_path / "run", **change}
        with pytest.raises(UserError, match=says):
            distill(**given)
        assert not (tmp_path / "run").exists(), change


def test_folders_of_other_things_are_refused(transfer, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not a run; choose another folder"):
        distill("cnn_4", transfer, epochs=1, out=tmp_path)
    with pytest.raises(UserError, match="exists and is not a run; choose another folder"):
        distill("cnn_4", transfer, epochs=1, out=tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_how_right_the_teacher_was_is_recorded(transfer, pool, tmp_path):
    run = distill("cnn_4", transfer, epochs=1, out=tmp_path / "run")
    right = sum(
        int(row.argmax()) == int(label)
        for row, label in zip(transfer.responses["logits"], transfer.labels, strict=True)
    )
    assert run.teacher_accuracy == pytest.approx(100 * right / 64)
    results = json.loads((tmp_path / "run" / "run.json").read_text())["results"]
    assert (results["teacher_accuracy"], results["teacher_inputs"]) == (run.teacher_accuracy, 64)
    bare = TransferSet(transfer.pool.without_labels, transfer.responses)
    assert distill("cnn_4", bare, epochs=1, teacher_labels=True).teacher_accuracy is None


def test_test_and_validation_of_another_order_are_matched_by_name(transfer, pool):
    """The same figures, to the last digit, whatever order the classes of other pools have."""
    named = [f"kind {i}" for i in range(10)]
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()

    def renamed(part):
        return data.from_tensors(part.inputs, part.labels, class_names=named)

    teaching = replace(transfer, pool=replace(transfer.pool, class_names=tuple(named)))
    plain = renamed(pool[64:])
    moved = plain.in_classes([named[i] for i in order])
    assert moved.labels.tolist() != plain.labels.tolist()
    figures = [
        distill("cnn_4", teaching, "kd", epochs=2, validation=part[:50], test=part[50:]).results()
        for part in (plain, moved)
    ]
    assert [f["accuracy"] for f in figures] == [figures[0]["accuracy"]] * 2
    assert figures[0]["validation"] == figures[1]["validation"]
    further = TransferSet(plain, {"logits": torch.randn(len(plain), 10, generator=torch.Generator().manual_seed(1))})
    columns = TransferSet(moved, {"logits": further.responses["logits"][:, order]})
    agreed = [distill("cnn_4", teaching, "kd", epochs=1, validation=v).validation for v in (further, columns)]
    assert agreed[0] == agreed[1]


def test_a_test_split_of_other_classes_may_be_left_out():
    pool = data.from_tensors(torch.randn(8, 4), [0, 1] * 4, class_names=["ant", "bee"], name="pets").without_labels
    transfer = data.TransferSet(replace(pool, class_names=("x", "y")), {"logits": torch.randn(8, 2)})
    test = data.from_tensors(torch.randn(4, 4), [0, 1] * 2, class_names=["ant", "bee"], name="pets test")
    says = r"pets test has the class ant, bee, which the model does not know; .*evaluate nothing: --set test=null"
    with pytest.raises(UserError, match=says):
        distill("mlp_4", transfer, "kd", test=test, epochs=1)
    assert distill("mlp_4", transfer, "kd", epochs=1).accuracy is None


def test_files_to_keep_are_written_when_the_run_begins(transfer, tmp_path):
    """A stopped run has them. They stay as they first were, until the run gets more epochs."""

    def stop(done, epochs, figures):
        raise KeyboardInterrupt

    def run(content, epochs=2, callbacks=()):
        settings = {"epochs": epochs, "batch_size": 16, "device": "cpu", "keep": {"note": content}}
        distill("cnn_4", transfer, "kd", out=tmp_path, callbacks=callbacks, **settings)
        return (tmp_path / "note").read_bytes()

    with pytest.raises(KeyboardInterrupt):
        run(b"first", callbacks=[Shown(stop, 2)])
    assert (tmp_path / "note").read_bytes() == b"first"
    assert run(b"second") == b"first"
    assert run(b"third", epochs=3) == b"third"
