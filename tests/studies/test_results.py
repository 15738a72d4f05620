"""What results/README.md says is what its commands give from results/runs.csv."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from tuition.studies import records, tables
from tuition.studies.table import markdown

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def answers():
    spec = importlib.util.spec_from_file_location("answers", RESULTS / "answers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(text):
    return [line for line in text.splitlines() if line.startswith("|") and not line.startswith(("|--", "| :--"))]


def test_the_page_holds_what_its_commands_print(answers, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["answers.py"])
    answers.main()
    page = (RESULTS / "README.md").read_text()
    printed = rows(capsys.readouterr().out)
    assert len(printed) == 23
    for section in records.sections(records.read(RESULTS)):
        printed += rows(markdown(tables.accuracy(section)))
    assert [row for row in printed if row not in page] == []


def test_a_ratio_lies_where_a_t_test_finds_nothing(answers):
    """The ends of Fieller's interval, searched."""
    above, below = np.array([2.0, 3.1, 2.4, 2.9, 3.6]), np.array([2.2, 2.5, 2.9, 2.0, 3.3])

    def p(ratio):
        return scipy.stats.ttest_1samp(above - ratio * below, 0).pvalue - 0.05

    middle = above.mean() / below.mean()
    expected = [scipy.optimize.brentq(p, *span) for span in ((0.1, middle), (middle, 5.0))]
    assert answers.fieller(above, below) == pytest.approx(expected)
    assert np.isnan(answers.fieller(above, below - 2.5)).all()  # the denominator may be zero
