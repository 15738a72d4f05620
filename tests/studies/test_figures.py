import math
import warnings
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from tuition.studies import figures, needed, statistics

RESULTS = [
    {"method": method, "calls": calls, "mean": 90 - 400 / calls - shift, "std": 1.0, "seeds": 3}
    for shift, method in enumerate(["ckd", "kd", "ce", "something new"])
    for calls in (20, 40, 80, 160, 320)
]
COMBINED = {"fitnets_crd", "fitnets_ckd", "vid_crd", "vid_ckd"}  # told apart from their first part by colour
SVG = "{http://www.w3.org/2000/svg}"


def texts(path):
    return [element.text.strip() for element in ElementTree.parse(path).iter(f"{SVG}text")]


CURVES = {
    method: {row["calls"]: {0: row["mean"] - 1, 1: row["mean"] + 1} for row in RESULTS if row["method"] == method}
    for method in ("ckd", "kd", "ce", "something new")
}


def drawn(path, results=RESULTS, curves=CURVES, **others):
    return figures.calls_and_accuracy(results, needed.along(curves), path, **others)


def test_calls_and_accuracy_writes_png_svg_and_pdf_that_name_every_method_once(tmp_path):
    files = drawn(tmp_path / "new" / "curve", title="Digits", reference={"teacher": 98.2})
    assert [file.name for file in files] == ["curve.png", "curve.svg", "curve.pdf"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert files[2].read_bytes().startswith(b"%PDF")
    words = texts(files[1])
    once = ["CKD", "KD", "labels only", "something new", "teacher", "Digits", "teacher calls", "teacher calls needed"]
    assert [words.count(word) for word in once] == [1] * len(once)
    # Geometric counts: a tick at each, on both axes of calls, which are logarithmic.
    assert [words.count(tick) for tick in ("20", "40", "160", "320")] == [2] * 4


def test_long_names_lose_their_middle_and_leave_room_for_the_axes(tmp_path):
    names = [f"our_package.methods:contrastive_distillation_with_memory_and_projection_{i}" for i in range(3)]
    results = [row | {"method": name} for name in names for row in RESULTS if row["method"] == "ckd"]
    curves = dict.fromkeys(names, CURVES["ckd"])
    points = [row | {"low": 80, "high": 90, "values": [80, 90]} for row in results if row["calls"] == 320]
    with warnings.catch_warnings(action="error"):
        drawn(tmp_path / "curve.svg", results, curves)
        figures.accuracy_points(points, tmp_path / "points.svg")
        figures.over_epochs(dict.fromkeys(names, np.ones((9, 2))), tmp_path / "epochs.svg", ylabel="validation")
    for path in tmp_path.iterdir():
        assert sum(word.startswith("our_pa") and word.endswith("projection_2") for word in texts(path)) == 1


def test_a_suffix_asks_for_one_file_and_a_dotted_name_is_no_suffix(tmp_path):
    assert drawn(tmp_path / "a.png") == [tmp_path / "a.png"]
    assert drawn(tmp_path / "anchor0.1")[0].name == "anchor0.1.png"


@pytest.mark.parametrize("std", [None, float("nan")])
def test_one_seed_and_one_budget_still_give_a_figure_without_a_band(tmp_path, std):
    results = [{"method": "kd", "calls": 80, "mean": 50.0, "std": std, "seeds": 1}]
    (file,) = drawn(tmp_path / "one.svg", results, {"kd": {80: {0: 50.0}}})
    assert "nan" not in file.read_text().lower()


def test_calls_along_a_curve_are_those_of_the_mean_with_the_interval_over_seeds():
    rows = [row for row in needed.along(CURVES) if row["method"] == "kd"]
    means = {calls: 90 - 400 / calls - 1 for calls in (20, 40, 80, 160, 320)}
    for row in rows:
        if not math.isnan(row["calls"]):
            assert row["calls"] == pytest.approx(np.interp(row["target"], list(means.values()), list(means)))
    marked = [row for row in rows if row["marked"] and not math.isnan(row["low"])]
    assert len(marked) >= 2
    for row in marked:
        estimate = statistics.calls_to_reach(CURVES["kd"], row["target"])
        assert (row["low"], row["high"]) == (estimate.low, estimate.high)
    others = [row["target"] for row in needed.along(CURVES) if row["method"] != "kd" and row["marked"]]
    assert not {row["target"] for row in marked} & set(others), "no interval hides another"


def test_equal_results_give_equal_files_and_leave_no_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    one, two = (drawn(tmp_path / name)[1:] for name in ("one", "two"))
    assert [a.read_bytes() for a in one] == [b.read_bytes() for b in two]
    assert dict(matplotlib.rcParams) == before


def test_spectra_are_relative_and_named_with_their_effective_ranks(tmp_path):
    flat, steep = np.full((2, 30), 7.0), np.array([[5.0] + [0.0] * 29])
    halves = np.array([[8.0, 8.0, 0.0], [8.0, 0.0, 0.0]])
    values = {"features": {"ckd": flat, "kd": steep}, "logits": {"ckd": halves, "kd": np.array([[4.0, 0.4, 0.04]])}}
    (file,) = figures.spectra(values, tmp_path / "s.svg", title="1,600 calls")
    shown = texts(file)
    entropy = -sum(p * math.log(p) for p in (100 / 111, 10 / 111, 1 / 111))
    assert {"features", "logits", "CKD (30.0, 1.5)", f"KD (1.0, {math.exp(entropy):.1f})", "1,600 calls"} <= set(shown)
    assert {"1", "0.1", "0.01"} <= set(shown)  # numbers, and no markup of powers
    assert not any("mathdefault" in text for text in shown)


def test_accuracy_points_names_each_method_once(tmp_path):
    rows = [
        {"method": "fitnets_ckd", "mean": 40.0, "low": 38.0, "high": 42.0, "values": [39.0, 41.0]},
        {"method": "vid", "mean": 30.0, "low": float("nan"), "high": float("nan"), "values": [30.0]},
    ]
    (file,) = figures.accuracy_points(rows, tmp_path / "p.svg")
    assert texts(file).count("FitNets + CKD") == texts(file).count("VID") == 1


def test_accuracy_points_stay_within_a_percentage(tmp_path):
    rows = [{"method": "kd", "mean": 52.0, "low": -36.0, "high": 140.0, "values": [45.0, 59.0]}]
    (file,) = figures.accuracy_points(rows, tmp_path / "p.svg")
    ticks = [float(text) for text in texts(file) if text.lstrip("-\u2212").isdigit()]
    assert (min(ticks), max(ticks)) == (0, 100)


def test_no_two_methods_look_alike():
    looks = figures.styles([*figures.STYLES, *(f"method {i}" for i in range(30))])
    assert len(set(looks.values())) == len(looks)
    without_colour = {(style.marker, style.dashes) for name, style in figures.STYLES.items() if name not in COMBINED}
    assert len(without_colour) == sum(name not in COMBINED for name in figures.STYLES)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_names_move_as_little_as_keeps_them_apart(values):
    """Least squares under a least gap is isotonic regression of the values less their multiples of the gap."""
    values, gap = sorted(values), 0.06
    heights = figures.spread(values, gap)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(heights))
    assert min(heights) >= -1e-9
    assert max(heights) <= 1 + 1e-9
    steps = gap * np.arange(len(values))
    expected = (
        IsotonicRegression().fit_transform(steps, np.array(values) - steps) + steps if len(values) > 1 else values
    )
    if min(expected) >= 0 and max(expected) <= 1:
        np.testing.assert_allclose(heights, expected, atol=1e-6)
