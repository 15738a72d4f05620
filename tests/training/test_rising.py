"""Whether validation was still rising when a training ended."""

import math
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuition.cli.printer import Printer
from tuition.cli.tables import print_run
from tuition.data import Accounts
from tuition.studies.run_report import RunReport
from tuition.studies.run_verdict import next_steps
from tuition.training.rising import MORE, still_rising


def curve(epochs, time, noise, seed):
    """Validation that nears 80 % with a constant of `time` epochs."""
    draw = random.Random(seed)
    return [80 - 60 * math.exp(-epoch / time) + draw.gauss(0, noise) for epoch in range(epochs)]


@pytest.mark.parametrize("epochs", [6, 20, 60, 200])
def test_a_curve_that_has_far_to_go_is_rising_and_a_flat_one_is_not(epochs):
    rising = sum(still_rising(curve(epochs, epochs / 1.5, 0.5, seed)) for seed in range(100))
    flat = sum(still_rising(curve(epochs, epochs / 1e3, 2.0, seed)) for seed in range(100))
    ended = sum(still_rising(curve(epochs, epochs / 30, 0.5, seed)) for seed in range(100))
    assert rising > 90
    assert max(flat, ended) < 10


@pytest.mark.parametrize(
    "validation",
    [
        [],
        [10.0, 20.0, 30.0],  # too few to tell
        [100.0] * 30,
        [50 + 0.01 * epoch for epoch in range(60)],  # half a point in fifty epochs is not worth them
        [*range(60), *range(50, 20, -1), *range(20, 40)],  # it was higher before
    ],
)
def test_what_is_not_rising(validation):
    assert not still_rising(validation)


@pytest.mark.parametrize(("end", "noted"), [(60, True), (20, False)])
def test_it_is_said_after_a_run(end, noted, capsys):
    history = [{"epoch": epoch, "validation": float(min(epoch, end))} for epoch in range(1, 61)]
    names = ("accuracy", "accuracy_last", "top5", "calibration_error", "validation", "agreement", "teacher_accuracy")
    figures = dict.fromkeys(
        (*names, "best_epoch", "teacher_inputs", "images_seen", "seconds", "epochs", "directory"), 0
    )
    run = SimpleNamespace(**figures, measured={}, accounts=Accounts(), bill=None, history=history)
    print_run(Printer(), run, "a run")
    assert ("Note: Validation was still rising at the last epoch" in capsys.readouterr().err) == noted
    report = RunReport(Path("run"), {"results": dict.fromkeys(names)}, rising=noted)
    assert (next_steps(report) == [f"Next: train for longer. {MORE}."]) == noted
