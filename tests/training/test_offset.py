"""The offset of the classes, that comparison losses do not teach, against its definition written out."""

import csv
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tuition import distill, losses
from tuition.training.recentre import centre_of, last_bias, offset


def naive(student, transfer):
    """Class by class: root mean square of the mean residual less its mean over classes."""
    targets = (transfer.responses["logits"] + F.one_hot(transfer.labels, 10)) / 2
    gaps = [float((targets[:, k] - student.outputs(transfer.pool)[:, k]).mean()) for k in range(10)]
    middle = sum(gaps) / 10
    return (sum((gap - middle) ** 2 for gap in gaps) / 10) ** 0.5


def test_the_offset_is_that_of_the_definition_and_of_the_last_epoch(transfer, tmp_path):
    run = distill("cnn_4", transfer, "ckd_published", epochs=3, offset=True, out=tmp_path / "run")
    expected = naive(run.student, transfer)
    targets = centre_of(transfer, 10, (1.0, 1.0))
    assert offset(run.student, transfer, targets) == pytest.approx(expected, rel=1e-4)
    assert run.history[-1]["offset"] == pytest.approx(expected, rel=1e-4)  # without validation the last is kept
    with (tmp_path / "run" / "metrics.csv").open() as file:
        noted = [float(row["offset"]) for row in csv.DictReader(file)]
    assert noted == pytest.approx([row["offset"] for row in run.history], rel=1e-6)
    assert "offset" not in distill("cnn_4", transfer, "kd", epochs=1).history[0]


def test_a_constant_is_in_the_offset_unless_all_classes_share_it(transfer):
    run = distill("cnn_4", transfer, "ckd", epochs=1)
    targets, before = centre_of(transfer, 10, (1.0, 1.0)), run.student.outputs(transfer.pool)
    with torch.no_grad():
        last_bias(run.student).add_(7.0)
    same = run.student.outputs(transfer.pool)
    assert offset(run.student, transfer, targets) == pytest.approx(naive(run.student, transfer), rel=1e-4)
    answers = transfer.responses["logits"]
    assert float(losses.ckd(before, answers)) == pytest.approx(float(losses.ckd(same, answers)), rel=1e-4)
    alone = offset(run.student, transfer, targets)
    with torch.no_grad():
        last_bias(run.student)[3] += 50.0
    moved = run.student.outputs(transfer.pool)
    # The loss sees neither; the offset sees what one class alone has: 50 * sqrt(0.1 * 0.9) = 15, give or take `alone`.
    assert float(losses.ckd(moved, answers)) == pytest.approx(float(losses.ckd(before, answers)), rel=1e-3)
    assert offset(run.student, transfer, targets) == pytest.approx(15, abs=alone)


def test_a_recentred_student_has_none(transfer):
    held_out = replace(transfer, responses={}).pool[:8]
    options = {"recentre": True}
    run = distill("cnn_4", transfer, "ckd_published", options=options, validation=held_out, epochs=2, offset=True)
    assert [row["offset"] for row in run.history] == pytest.approx([0, 0], abs=1e-4)
