"""Figure 5 from records: the spectra of features and of logits, and the table of their effective ranks."""

import math
from statistics import mean, stdev

import numpy as np

from tuition.studies import records, spectra


def rank(values):
    """exp of the entropy, written out."""
    shares = [value / sum(values) for value in values if value > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))


def test_the_table_has_features_and_logits_at_each_number_of_calls(runs):
    made = runs(methods=("ckd", "kd"), calls=(1600, 2000), seeds=3)
    by_run, ranks = {}, {}
    for number, run in enumerate(made):
        if run.method == "ckd" or run.calls == 1600:  # one cell is empty
            by_run[run.key] = {"features": [4.0, 2.0, 1.0 + number], "logits": [1.0, number / 100, 0.0]}
            for output, values in by_run[run.key].items():
                ranks.setdefault((run.method, output, run.calls), []).append(rank(values))
    (section,) = records.sections(made)
    grouped = spectra.groups(section, by_run)
    assert {calls: {o: list(methods) for o, methods in outputs.items()} for calls, outputs in grouped.items()} == {
        1600: {"features": ["ckd", "kd"], "logits": ["ckd", "kd"]},
        2000: {"features": ["ckd"], "logits": ["ckd"]},
    }
    first = [by_run[run.key]["logits"] for run in made if (run.method, run.calls) == ("kd", 1600)]
    np.testing.assert_array_equal(grouped[1600]["logits"]["kd"], first)
    table = spectra.table(section, by_run)
    assert table.header == ["method", *(f"{o}, {n:,} calls" for o in ("features", "logits") for n in (1600, 2000))]
    cells = {row[0].text: [f"{cell.text} {cell.detail}" for cell in row[1:]] for row in table.rows}
    expected = [ranks["kd", output, 1600] for output in ("features", "logits")]
    features, logits = (f"{mean(values):.1f} ({stdev(values):.1f})" for values in expected)
    assert cells["KD"] == [features, "- ", logits, "- "]
    assert len(table.data) == 6
    assert not spectra.table(section, {}).rows
