import csv
import io
import math
import re
from dataclasses import replace
from decimal import Decimal
from itertools import combinations
from statistics import mean, stdev

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_rel

from tuition.data import Accounts, Bill
from tuition.studies import power, statistics, tables, totals, verdict
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.records import flatten, sections
from tuition.studies.table import comma_separated, latex, markdown, write


@pytest.fixture
def section(runs):
    (result,) = sections(runs(methods=("ckd", "mse", "kd"), selection=True))
    return result


def data(table):
    return list(csv.DictReader(io.StringIO(comma_separated(table))))


def cells(table):
    """Text and detail by first cell and column."""
    return {
        f"{row[0].text} {row[0].detail}".strip(): {
            name: f"{cell.text} {cell.detail}".strip() for name, cell in zip(table.header[1:], row[1:], strict=True)
        }
        for row in table.rows
    }


def test_sections_part_what_must_not_be_averaged(runs):
    mixed = [
        *runs(seeds=1),
        *runs(seeds=1, accounting="matched"),
        *runs(seeds=1, student="wrn_40_1"),
        *(replace(run, schedule="plateau") for run in runs(seeds=1)),
        *(replace(run, status="failed") for run in runs(seeds=1, dataset="digits")),
    ]
    result = sections(mixed)
    assert len({part.slug for part in result}) == len(result) == 4
    assert result[0].title == "CIFAR-100, WRN-40-2 → WRN-16-2"
    assert result[0].conditions == "cosine schedule, 120 epochs, steps as published"
    assert all(len(part.runs) == len(runs(seeds=1)) for part in result)


def test_values_of_a_setting_become_methods_of_their_own(runs):
    plain = runs(methods=("ckd", "kd"), calls=(1600,), seeds=2)
    other = [
        replace(run, key=run.key + "b", settings=run.settings | {"method": {"name": "ckd", "anchor": 1.0}})
        for run in plain
        if run.method == "ckd"
    ]
    (result,) = sections([*plain, *other])
    assert set(result.curves) == {"ckd [anchor=0.1]", "ckd [anchor=1.0]", "kd"}
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


def test_accuracy_is_the_mean_and_deviation_over_seeds(section):
    table = tables.accuracy(section)
    values = [run.accuracy for run in section.runs if (run.method, run.calls) == ("kd", 2400)]
    assert cells(table)["KD"]["2,400 calls"] == f"{mean(values):.2f} ({stdev(values):.2f})"
    (row,) = (row for row in data(table) if (row["method"], row["calls"]) == ("kd", "2400"))
    assert float(row["mean"]) == pytest.approx(mean(values))
    assert row["seeds"] == "5"
    assert "seeds: 5" in table.note


def test_bold_is_better_than_every_other_method_after_the_correction(runs):
    """Holm's correction over the three pairs at each of seven counts, written out."""
    (section,) = sections(runs(methods=("ckd", "mse", "kd"), noise=0.6))
    pairs = [(n, *pair) for n in section.calls for pair in combinations(section.curves, 2)]
    raw = [ttest_rel(*(list(section.curves[m][n].values()) for m in pair)).pvalue for n, *pair in pairs]
    order = sorted(range(len(raw)), key=raw.__getitem__)
    corrected = [
        max(min(1, (len(raw) - k) * raw[order[k]]) for k in range(order.index(i) + 1)) for i in range(len(raw))
    ]
    expected = set()
    for n in section.calls:
        best = max(section.curves, key=lambda m: mean(section.curves[m][n].values()))
        if all(p <= 0.05 for (count, *pair), p in zip(pairs, corrected, strict=True) if count == n and best in pair):
            expected.add((best.upper(), n))
    table = tables.accuracy(section)
    bold = {(row[0].text, n) for row in table.rows for n, cell in zip(section.calls, row[1:], strict=True) if cell.best}
    assert bold == expected
    assert 0 < len(bold) < 7
    one_seed = tables.accuracy(*sections(runs(seeds=1)))
    assert not any(cell.best for row in one_seed.rows for cell in row)


def test_a_verdict_says_who_won_by_how_much_and_what_next(runs):
    (section,) = sections(runs(methods=("ckd", "mse", "kd"), noise=0.3))
    best, told, *rest, advice = verdict.verdict(section).sentences
    top = mean(section.curves["ckd"][4000].values())
    assert best == f"CKD wins: {top:.2f} % of the test set is right at 4,000 calls (mean of 5 seeds)."
    ahead = top - mean(section.curves["kd"][4000].values())
    assert told.startswith("It is better than ")
    assert f"KD ({ahead:+.2f} points, 95 % interval" in told
    needs = next(sentence for sentence in rest if sentence.startswith("For "))
    goal, ours, theirs = re.match(r"For (\S+) % it needs (\S+) calls, and \w+ needs ([\d,]+):", needs).groups()
    shown = cells(tables.calls_to_accuracy(section))
    assert shown["CKD"][f"{goal} %"].startswith(ours)
    assert shown["MSE"][f"{goal} %"].startswith(theirs)
    assert any(sentence.startswith("More calls still help") for sentence in rest)
    assert advice == "Next: ship CKD."


def test_a_verdict_names_the_teacher_s_accuracy_and_price(runs):
    (section,) = sections(replace(run, teacher_accuracy=90.0 + run.seed) for run in runs(methods=("ckd", "kd")))
    store = PaidCalls("wrn_40_2", Accounts(paid=800), Bill(Decimal("1.6")))
    words = verdict.verdict(section, [replace(store, teacher="another", bill=Bill(Decimal(9))), store]).sentences
    assert "The teacher itself is right on 92.00 % of the inputs it was asked about and costs 0.002 a call." in words
    (saved,) = (sentence for sentence in words if " calls saved" in sentence)
    ours, theirs, worth = re.search(r"needs ([\d,]+) calls, and KD needs ([\d,]+): .* worth ([\d.]+)", saved).groups()
    assert float(worth) == pytest.approx(0.002 * (int(theirs.replace(",", "")) - int(ours.replace(",", ""))), abs=0.003)
    assert not any("costs" in sentence or "worth" in sentence for sentence in verdict.verdict(section).sentences)


def test_a_verdict_admits_what_seeds_cannot_tell(runs):
    alike = [replace(run, method=name, key=name + run.key) for name in ("kd", "mse") for run in runs(methods=("ckd",))]
    alike = [replace(run, accuracy=run.accuracy + (run.seed - 1.9) / 4 * (run.method == "kd")) for run in alike]
    (section,) = sections(alike)
    best, told, *_, advice = verdict.verdict(section).sentences
    assert best.startswith("KD is ahead, but not beyond the noise of the seeds: ")
    assert told.startswith("After the correction for all comparisons, the seeds cannot tell it from MSE (")
    assert advice.startswith("Next: treat KD and MSE as equal at 4,000 calls")
    (section,) = sections(runs(seeds=1))
    assert "one seed tells nothing about noise" in verdict.verdict(section).next
    assert verdict.verdict(replace(section, runs=[])) is None
    (section,) = sections(runs(methods=("kd",)))
    best, *_, advice = verdict.verdict(section).sentences
    assert best.startswith("KD was run alone: ")
    assert advice.startswith("Next: compare KD with another method")


def test_a_verdict_names_the_seeds_that_would_tell(runs):
    """Two methods whose differences over five seeds have a mean of 0.4 and a deviation of 0.5."""
    gaps = [0.4 + 0.5 * z / stdev((-1.0, -0.5, 0.0, 0.5, 1.0)) for z in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    pair = [
        replace(run, method=name, key=name + run.key, accuracy=60 + run.seed + (name == "kd") * gaps[run.seed])
        for name in ("kd", "mse")
        for run in runs(methods=("ckd",), calls=(1600,))
    ]
    (section,) = sections(pair)
    advice = verdict.verdict(section).next
    seeds = int(re.search(r"run (\d+) more seeds, (\d+) in all", advice)[2])
    assert f"run {seeds - 5} more" in advice
    draws = np.random.default_rng(0).normal(0.4, 0.5, (20_000, seeds))
    assert (ttest_1samp(draws, 0, axis=1).pvalue <= 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_seeds_needed_are_those_of_tables_of_power():
    """Two-sided paired t tests at 5 % with a power of 80 %: the numbers that Cohen (1988) and G*Power give."""
    for effect, expected in ((0.5, 34), (0.8, 15), (1.0, 10)):
        half = t.isf(0.025, 2) / 3**0.5
        pair = statistics.Paired(3, effect, effect - half, effect + half, 0.5)
        assert power.seeds_to_show(pair, 1) == expected
        assert power.seeds_to_show(pair, 20) > expected
    assert power.seeds_to_show(statistics.Paired(3, 0.1, 0.1 - half, 0.1 + half, 0.9), 1) is None
    assert power.seeds_to_show(statistics.Paired(1, 0.1, math.nan, math.nan, math.nan), 1) is None


def test_unequal_seeds_are_shown_and_a_missing_count_is_a_dash(runs):
    kept = [
        run for run in runs(methods=("ckd", "kd")) if not (run.method == "kd" and (run.seed > 2 or run.calls < 2000))
    ]
    table = tables.accuracy(*sections(kept))
    assert cells(table)["KD"]["1,600 calls"] == "-"
    assert cells(table)["KD"]["2,000 calls"].endswith("[3]")
    one_seed = tables.accuracy(*sections(runs(seeds=1)))
    assert all(re.fullmatch(r"\d+\.\d\d", text) for row in cells(one_seed).values() for text in row.values())


def test_published_values_stand_under_the_measured_ones(runs, section):
    result = cells(tables.calls_to_accuracy(section))
    assert list(result)[:2] == ["CKD", "CKD in the paper"]
    published = {"55 %": "3,970", "50 %": "3,110", "45 %": "2,340", "40 %": "1,840", "35 %": "-", "30 %": "-"}
    assert published.items() <= result["CKD in the paper"].items()
    delta = {"55 %": "23.7 %", "50 %": "21.3 %", "45 %": "22.8 %", "40 %": "20.0 %", "35 %": "-", "30 %": "-"}
    assert (
        delta.items() <= result["saved by CKD in the paper"].items()
    )  # 5.20 -> 3.97, 3.95 -> 3.11, 3.03 -> 2.34, 2.30 -> 1.84
    both = [*section.runs, *(replace(run, method="ckd_published") for run in section.runs if run.method == "ckd")]
    names = list(cells(tables.calls_to_accuracy(replace(section, runs=both))))
    assert "CKD in the paper" not in names  # the paper's CKD is the published form, not ours
    assert names[names.index("CKD, published") + 1] == "CKD, published in the paper"
    saved = cells(tables.calls_to_accuracy(replace(section, runs=both)))
    assert delta.items() <= saved["saved by CKD, published in the paper"].items()
    ours, theirs = (saved[f"saved by {name} against {tables.PAPER}"] for name in ("CKD", "CKD, published"))
    assert ours == theirs  # the runs are the same
    assert "saved by CKD, published against MSE" not in saved
    white_box = [replace(run, method="fitnets_ckd") for run in runs(methods=("ckd",), calls=(1600, 2400, 3200))]
    table = tables.accuracy(*sections(white_box))
    assert cells(table)["FitNets + CKD in the paper"]["3,200 calls"] == "47.78 (0.96)"
    assert {row["source"] for row in data(table)} == {"measured", "published"}
    two_forms = [*white_box, *(replace(run, method="fitnets_ckd_published") for run in white_box)]
    shown = cells(tables.accuracy(*sections(two_forms)))
    assert "FitNets + CKD in the paper" not in shown
    assert shown["FitNets + CKD, published in the paper"]["1,600 calls"] == "31.72 (2.46)"
    elsewhere = sections(runs(dataset="digits"))
    assert not any("in the paper" in name for name in cells(tables.calls_to_accuracy(*elsewhere)))


def test_a_part_of_the_paper_s_runs_stands_beside_its_rows(runs):
    """Two methods at two numbers of calls, one seed: accuracies of the paper outside the range are said to be so."""
    made = [replace(run, method=run.method.replace("ckd", "ckd_published")) for run in
            runs(methods=("ckd", "kd"), calls=(2000, 2800), seeds=1)]  # fmt: skip
    (section,) = sections(made)
    shown = cells(tables.calls_to_accuracy(section))
    assert {f"{goal} %" for goal in (55, 50, 45, 40, 35, 30)} <= set(shown["KD"])
    (low, high), (kd_low, kd_high) = (
        [section.curves[method][calls][0] for calls in (2000, 2800)] for method in ("ckd_published", "kd")
    )
    assert 35 < low < 40 < high < 45
    assert 30 < kd_low < 35 < kd_high < 40
    forty, thirty_five = 2000 + 800 * (40 - low) / (high - low), 2000 + 800 * (35 - kd_low) / (kd_high - kd_low)
    expected = {"55 %": "> 2,800", "45 %": "> 2,800", "40 %": f"{forty:,.0f}", "35 %": "< 2,000", "30 %": "< 2,000"}
    assert expected.items() <= shown["CKD, published"].items()
    expected = {"45 %": "> 2,800", "40 %": "> 2,800", "35 %": f"{thirty_five:,.0f}", "30 %": "< 2,000"}
    assert expected.items() <= shown["KD"].items()
    assert {"45 %": "2,340", "40 %": "1,840", "35 %": "-"}.items() <= shown["CKD, published in the paper"].items()
    assert {"55 %": "-", "50 %": "4,370", "30 %": "1,720"}.items() <= shown["KD in the paper"].items()
    assert shown["saved by CKD, published in the paper"]["45 %"] == "22.8 %"
    single = [run for run in made if run.calls == 2000]
    assert list(cells(tables.calls_to_accuracy(*sections(single)))) == [
        "CKD, published in the paper", "KD in the paper", "saved by CKD, published in the paper",
    ]  # fmt: skip


def test_calls_and_saving_follow_from_the_means(runs):
    """The crossing of 40 % looked up by hand between the two neighbouring means."""
    (section,) = sections(runs(methods=("ckd", "mse", "crd")))
    result = {row["method"]: row for row in data(tables.calls_to_accuracy(section)) if row["target"] in ("40", "40.0")
             and row["source"] == "measured"}  # fmt: skip

    def crossing(method):
        means = {n: mean(values.values()) for n, values in section.curves[method].items()}
        left = max(n for n, value in means.items() if value < 40)
        right = min(n for n, value in means.items() if value >= 40)
        return left + (40 - means[left]) / (means[right] - means[left]) * (right - left)

    for method in ("ckd", "mse"):
        assert float(result[method]["calls"]) == pytest.approx(crossing(method))
        assert float(result[method]["low"]) < crossing(method) < float(result[method]["high"])
    saved = {row["against"]: row for row in data(tables.calls_to_accuracy(section)) if row["method"] == "saved by ckd"
             and row["target"] in ("40", "40.0") and row["source"] == "measured"}  # fmt: skip
    assert set(saved) == {"MSE", tables.PAPER}  # CRD alone is a baseline of the paper's
    for against, method in (("MSE", "mse"), (tables.PAPER, "crd")):
        row = saved[against]
        assert float(row["percent"]) == pytest.approx(100 * (1 - crossing("ckd") / crossing(method)))
        assert float(row["low"]) < float(row["percent"]) < float(row["high"])
    shown = cells(tables.calls_to_accuracy(section))
    assert shown["saved by CKD against MSE"]["40 %"].startswith(f"{float(saved['MSE']['percent']):.1f} % [")


def test_paired_differences_are_corrected_over_the_table(section):
    rows = data(tables.paired(section))
    assert len(rows) == 2 * 7
    raw = []
    for row in rows:
        ours, theirs = section.curves["ckd"][int(row["calls"])], section.curves[row["other"]][int(row["calls"])]
        raw.append(ttest_rel(list(ours.values()), list(theirs.values())).pvalue)
        assert float(row["p"]) == pytest.approx(raw[-1])
    smallest = min(range(len(raw)), key=raw.__getitem__)
    assert float(rows[smallest]["p_holm"]) == pytest.approx(14 * raw[smallest])
    assert "14 tests" in tables.paired(section).note
    assert cells(tables.paired(section))["KD"]["4,000 calls"].split()[0].endswith("*")


def test_learning_curves_predict_or_say_why_not(section):
    rows = data(tables.learning(section))
    assert {row["method"] for row in rows} == {"ckd", "mse", "kd"}
    assert len({row["target"] for row in rows}) == 2
    highest = max(mean(values.values()) for curve in section.curves.values() for values in curve.values())
    assert all(float(row["target"]) > highest for row in rows)
    shown = cells(tables.learning(section))
    for row in rows:
        cell = shown[row["method"].upper()][f"calls for {float(row['target']):g} %"]
        assert cell == f"- ({row['distrust']})" if row["distrust"] else re.match(r"[\d,]+ \[", cell)
        assert (row["calls"] == "") == bool(row["distrust"])


def test_what_a_fit_cannot_tell_is_not_shown(runs):
    """A falling curve has a "limit" far below zero; one seed and three counts tell nothing."""
    falling = [replace(run, accuracy=60 - run.calls / 100) for run in runs(methods=("kd",), dataset="digits")]
    few = runs(methods=("kd",), calls=(1600, 2000, 2400), dataset="digits")
    good = runs(methods=("ckd",), noise=0.1, dataset="digits")
    for doubtful, reason in ((falling, "does not rise"), (few, "too few counts")):
        assert not tables.learning(*sections(doubtful)).rows
        table = tables.learning(*sections([*good, *doubtful]))
        assert [row[0].text for row in table.rows] == ["CKD"]
        assert re.search(rf"must not be trusted: KD \([^)]*{reason}", table.note)
        assert {(row["a"], row["calls"]) for row in data(table) if row["method"] == "kd"} == {("", "")}
    (rising,) = tables.learning(*sections(runs(methods=("kd",), noise=0.1, dataset="digits"))).rows
    low, high = map(float, rising[1].detail.strip("[]").split(", "))
    assert low <= 66.0 <= high <= 100  # the limit that the records were made with


def test_a_target_that_no_mean_curve_crosses_has_a_bound(runs):
    table = cells(tables.calls_to_accuracy(*sections(runs(methods=("ckd", "kd"), noise=0.1))))
    assert table["CKD"]["30 %"] == "< 1,600 [below range, 1,600]"
    assert table["KD"]["55 %"] == "> 4,000 [4,000, beyond range]"


def test_targets_stay_below_100_percent_near_the_top(runs):
    good = [replace(run, accuracy=99.5 - 200 / run.calls) for run in runs(calls=(40, 80, 160, 320), dataset="digits")]
    (section,) = sections(good)
    assert [name for name in tables.learning(section).header if "calls for" in name] == [
        "calls for 99 %",
        "calls for 99.5 %",
    ]
    assert tables.targets({"kd": {10: {0: 71.0}, 20: {0: 92.0}}}) == [90, 85, 80, 75]


def test_selection_shows_the_validation_accuracy_of_each_learning_rate(section):
    result = tables.selection(section)
    assert result.header == ["method", "calls", "lr 0.1", "lr 0.05", "lr 0.025"]
    expected = [r.validation for r in section.selection if (r.method, r.calls, r.learning_rate) == ("kd", 1600, 0.1)]
    (row,) = (
        row for row in data(result) if (row["method"], row["calls"], row["learning_rate"]) == ("kd", "1600", "0.1")
    )
    assert float(row["validation"]) == pytest.approx(mean(expected))


def test_of_equal_validations_the_rate_that_was_used_is_the_chosen_one(section):
    alike = replace(section, selection=[replace(run, validation=50.0) for run in section.selection])
    rows = cells(tables.selection(alike)).values()
    assert all("chosen" not in row["lr 0.1"] and "chosen" not in row["lr 0.025"] for row in rows)
    assert all("chosen" in row["lr 0.05"] for row in rows)


def test_accounts_count_a_run_once(runs):
    result = runs(methods=("ckd", "kd"), calls=(100, 200), seeds=3)
    (row,) = data(totals.accounts([*result, *result]))
    assert row == {"dataset": "cifar100", "teacher": "wrn_40_2", "runs": "12", "calls": "1800"}


def test_every_table_is_written_three_ways(section, tmp_path):
    made = tables.all_tables(section)
    write(made, tmp_path)
    kinds = {"accuracy", "calls", "paired", "learning", "quality", "cost", "selection"}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{kind}-{section.slug}{suffix}" for kind in kinds for suffix in (".md", ".tex", ".csv")
    }
    for table in made:
        lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
        assert len(lines) == len(table.rows) + 2
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(table.header) + 1}


def test_latex_escapes_and_balances(section):
    hostile = replace(section, runs=[replace(run, method="50% & {a_b}^~\\") for run in section.runs])
    for table in tables.all_tables(hostile):
        text = latex(table)
        body = [line for line in text.splitlines() if line.endswith("\\\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(table.header) - 1}
        stripped = re.sub(r"\\[{}]", "", text)
        assert stripped.count("{") == stripped.count("}")
        assert not re.search(r"(?<!\\)[%#]", text)
        assert text.isascii()
