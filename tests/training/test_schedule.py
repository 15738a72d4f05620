"""The cosine in closed form, and the stages against a plain account of the paper's words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuition.training.schedule import Stages, cosine


def test_cosine_falls_from_one_to_zero():
    assert cosine(0, 10) == 1.0
    assert cosine(5, 10) == pytest.approx(0.5)
    assert cosine(10, 10) == pytest.approx(0.0)
    for step in range(10):
        assert cosine(step, 10) == pytest.approx(math.cos(math.pi * step / 20) ** 2)
        assert cosine(step, 10) > cosine(step + 1, 10)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(1, 6))
def test_a_stage_ends_when_validation_has_not_improved_for_patience_epochs(values, patience):
    stages, best, used = Stages(patience), None, []
    for value in values:
        if stages.finished:
            break
        used.append((value, stages.factor))
        stages.update(best is None or value > best)
        best = value if best is None else max(best, value)
    # The same by hand: the epoch of the last improvement, and where each stage began.
    best, since, stage = None, 0, 0
    for value, factor in used:
        assert factor == pytest.approx(10.0**-stage)
        since = 0 if best is None or value > best else since + 1
        best = value if best is None else max(best, value)
        if since == patience:
            stage, since = stage + 1, 0
    assert stages.finished == (stage == 3)
