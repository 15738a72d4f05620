"""What a run says about its figures: on which inputs they were measured, and whether these were trained on too."""

import builtins
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from tuition import UserError, data, distill, load
from tuition.data import Crop, TransferSet
from tuition.training import logs, train_teacher
from tuition.training.curves import draw


def test_inputs_that_are_trained_on_and_measured_on_are_counted(transfer, pool):
    with pytest.warns(UserWarning, match="7 of the 40 validation inputs are in the transfer set too") as caught:
        distill("cnn_4", transfer, "kd", validation=pool[57:97], test=pool[60:100], epochs=1)
    assert any("4 of the 40 test inputs are in the transfer set too" in str(w.message) for w in caught)


def test_of_a_teacher_the_training_set_is_named(pool):
    with pytest.warns(UserWarning, match="1 of the 40 test inputs is in the training set too"):
        train_teacher("cnn_4", pool[:64], validation=None, test=pool[63:103], epochs=1)


def test_the_view_that_was_asked_about_does_not_hide_them(transfer, pool):
    crop = Crop(padding=1, flip=True)
    viewed = replace(transfer, pool=transfer.pool.view(crop, seed=0))
    assert not set(viewed.pool.digests) >= set(pool[:64].digests)
    with pytest.warns(UserWarning, match="10 of the 20 test inputs"):
        distill("cnn_4", viewed, "kd", test=pool[54:74], epochs=1)


def test_further_answers_and_texts_are_compared_too():
    texts = data.from_tensors([f"letter {i}" for i in range(20)], [i % 2 for i in range(20)])
    transfer = TransferSet(texts, {"logits": torch.randn(20, 2, generator=torch.Generator().manual_seed(0))})
    with pytest.warns(UserWarning, match="5 of the 5 validation inputs"):
        distill("bag_4", transfer[:10], "kd", validation=transfer[5:10], epochs=1)


def test_disjoint_inputs_give_no_warning(transfer, pool):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distill("cnn_4", transfer, "kd", validation=pool[64:104], test=pool[104:], epochs=1)


def test_figures_say_on_what_they_were_measured(transfer, pool, tmp_path):
    run = distill("cnn_4", transfer, "kd", validation=pool[64:104], test=pool[104:], epochs=1, out=tmp_path / "a")
    assert run.measured == {
        "agreement": "the 64 inputs of the transfer set",
        "validation": "accuracy on 40 labelled inputs",
        "accuracy": "the 96 inputs of digits train",
    }
    assert json.loads((tmp_path / "a/run.json").read_text())["measured"] == run.measured
    again = distill("cnn_4", transfer, "kd", validation=pool[64:104], test=pool[104:], epochs=1, out=tmp_path / "a")
    assert again.measured == run.measured
    answers = TransferSet(pool[64:104].without_labels, {"logits": torch.zeros(40, 10)})
    run = distill("cnn_4", transfer, "kd", validation=answers, epochs=1)
    assert run.measured["validation"] == "agreement with the teacher on 40 further inputs"
    assert "accuracy" not in run.measured
    assert "agreement" not in distill("cnn_4", TransferSet(transfer.pool, {}), "ce", epochs=1).measured


# -- figures and logs undo nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "module://", "TkAgg", ""])
def test_a_backend_of_a_notebook_is_passed_over(tmp_path, backend):
    program = (
        "from pathlib import Path; from tuition.training.curves import draw; import os;"
        "draw([{'epoch': 1.0, 'loss': 1.0, 'kd': 1.0}], Path('curves.png')); print(os.environ['MPLBACKEND'])"
    )
    environment = os.environ | {"MPLBACKEND": backend, "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{backend}\n"
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_losses_are_labelled_with_plain_numbers(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    labels = []
    save = Figure.savefig

    def read(figure, *words, **options):
        save(figure, *words, **options)
        labels.extend(tick.get_text() for tick in figure.axes[0].yaxis.get_ticklabels(which="both"))

    monkeypatch.setattr(Figure, "savefig", read)
    draw([{"epoch": epoch, "loss": 1.0, "kd": 6 / epoch} for epoch in (1.0, 30.0)], tmp_path / "curves.png")
    assert {"0.3", "1", "6"} <= set(labels)


@pytest.mark.parametrize("error", [ValueError("no font"), ImportError("no module"), OSError(28, "No space left")])
def test_a_figure_that_cannot_be_drawn_is_skipped_and_the_run_is_done(transfer, tmp_path, monkeypatch, error):
    def fail(history, path):
        assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "done", "before anything is drawn"
        raise error

    monkeypatch.setattr("tuition.training.curves.draw", fail)
    with pytest.warns(UserWarning, match=r"curves\.png was not drawn .*; the run is complete without it"):
        run = distill("cnn_4", transfer, "kd", epochs=1, out=tmp_path / "run")
    assert not (tmp_path / "run/curves.png").exists()
    assert torch.equal(load(tmp_path / "run").logits(transfer.pool), run.student.logits(transfer.pool))


def test_no_matplotlib_is_no_trouble(transfer, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *others, **more):
        if name.startswith("matplotlib"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.warns(UserWarning, match="was not drawn"):
        distill("cnn_4", transfer, "kd", epochs=1, out=tmp_path)


def test_a_log_that_fails_ends_and_the_training_goes_on(monkeypatch, tmp_path):
    class Writer:
        def __init__(self, directory):
            pass

        def add_scalar(self, *facts):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs, "_summary_writer", lambda: Writer)
    log = logs.TensorBoard(str(tmp_path / "logs"))
    with pytest.warns(UserWarning, match="the log in .* ends here .*No space left"):
        log.on_epoch({"epoch": 1, "loss": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.on_epoch({"epoch": 2, "loss": 0.5})


# -- a module of one's own is told apart -------------------------------------------------------------------------------


class Mine(nn.Module):
    def __init__(self, scale=1.0, shift=0.0, act=None):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), act or nn.ReLU())
        self.scale = torch.tensor(scale)
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        with torch.no_grad():
            self.net[1].weight.fill_(0.01)
            self.net[1].bias.zero_()

    def forward(self, inputs):
        return self.net(inputs) * self.scale + self.shift


def hooked():
    model = Mine()
    model.net.register_forward_hook(lambda module, inputs, output: output * 2)
    return model


@pytest.mark.parametrize(
    "other", [lambda: Mine(scale=2.0), lambda: Mine(shift=1.0), lambda: Mine(act=nn.GELU()), hooked]
)
def test_a_module_that_differs_beside_its_weights_is_another_run(transfer, tmp_path, other):
    distill(Mine(), transfer, "kd", epochs=1, out=tmp_path)
    distill(Mine(), transfer, "kd", epochs=1, out=tmp_path)
    with pytest.raises(UserError, match=r"holds a run with other settings .(initial_digest|own_code)"):
        distill(other(), transfer, "kd", epochs=1, out=tmp_path)


def test_preprocessing_of_ones_own_belongs_to_it(transfer, tmp_path):
    def scaled(by):
        from tuition import models

        return models.Preprocess([0.0], [by])

    distill(Mine(), transfer, "kd", epochs=1, out=tmp_path, preprocess=scaled(1.0))
    with pytest.raises(UserError, match="holds a run with other settings"):
        distill(Mine(), transfer, "kd", epochs=1, out=tmp_path, preprocess=scaled(2.0))
