"""The answers of README.md, the tables of studies.md and of other pages, from the runs of studies.

    python results/answers.py [FOLDER or runs.csv]             # print all tables of these runs (default: this folder's)
    python results/answers.py --write                          # fill all pages (PAGES) and studies.md
    python results/answers.py --collect RUN ... --out FOLDER   # single runs as FOLDER/runs.csv

Differences are means over equal seeds of test accuracy (at the best validation), in points, with the t interval of the
paired differences. p values are corrected by Holm's method over everything that is tested in one table of README.md, or
in one study of studies.md; a comparison of the same runs counts once. Calls are those of `tables.calls_to_accuracy`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuition.learning_curve import TAIL, IntervalEstimate
from tuition.studies import records, statistics, tables
from tuition.studies.names import label
from tuition.studies.records import Record, Section
from tuition.studies.statistics import Curve, Paired
from tuition.studies.table import Table, markdown, percent

HERE = Path(__file__).parent
PAGE, DETAIL = HERE / "README.md", HERE / "studies.md"
STUDIES = {
    ".": "ResNet8",
    "schedule-small": "20 classes",
    "schedule-small-authors": "20 classes, as the authors",
    "schedule-digits": "digits",
    "schedule-wrn": "WRN-16-2",
    "schedule-wrn-authors": "WRN-16-2, as the authors",
}
SINGLE = {"WRN-16-2": "by default", "WRN-16-2, as the authors": "as the authors"}  # one run a method
ACCOUNTINGS = {"matched": "equal", "published": "as published"}
KD, MSE, CKD, PUBLISHED, RECENTRED = "kd", "mse", "ckd", "ckd_published", "ckd_published_recentred"
QUESTIONS = {
    "published CKD against KD": (PUBLISHED, KD),
    "published CKD, recentred, against KD": (RECENTRED, KD),
    "what recentring changes in published CKD": (RECENTRED, PUBLISHED),
    "what exact pairs change against sampled ones": ("ckd_exact", PUBLISHED),
    "the same, both without their blindness to a constant": (CKD, RECENTRED),
    "what the anchor changes in the exact loss": (CKD, "ckd_exact"),
    "CKD against KD": (CKD, KD),
    "regression against KD": (MSE, KD),
    "CKD against regression": (CKD, MSE),
}
LEVERS = (  # task, target (percent), arm of fewer-calls/TASK.csv, and words
    ("digits", 95, "ckd, medoids, neighbours", "digits, from scratch: `ckd`, medoids, neighbours"),
    ("digits", 95, "ckd, rounds, unasked", "the same: `ckd`, 3 rounds, unasked pool"),
    ("news", 50, "ckd, medoids, neighbours", "head on a pretrained text encoder: `ckd`, medoids, neighbours"),
    (
        "small",
        40,
        "ckd, medoids, neighbours",
        "20 classes at 16x16, from scratch, an encoder: `ckd`, medoids, neighbours",
    ),
    ("small", 40, "ckd, mix, average", "the same without an encoder: `ckd`, mix, average"),
    ("images", 25, "ckd, medoids", "head on a pretrained net of images: `ckd`, medoids"),
)
DEVIATIONS = ("deviations", "deviations-teacher", "deviations-maps")  # methods are called METHOD or METHOD_Dn
FOLLOWED = {"D7"}  # rows in which METHOD is as the authors have it, and METHOD_Dn by default
TARGETS = 3  # rows of one study in the table of calls

Seeds = Mapping[int, float]  # seed -> accuracy


@dataclass(frozen=True)
class Comparison:
    """Two methods at one number of calls, and p after the correction over all comparisons of its table."""

    pair: Paired
    corrected: float

    @property
    def is_clear(self) -> bool:
        return self.corrected <= statistics.ALPHA

    @property
    def text(self) -> str:
        if self.pair.n < 2:
            return f"{self.pair.difference:+.1f} (one seed)"
        mark = "**" if self.is_clear else ""
        return f"{mark}{self.pair.difference:+.1f}{mark} ({self.pair.low:+.1f} to {self.pair.high:+.1f})"


Compare = Callable[[Seeds, Seeds], Comparison]


def comparisons(wanted: Iterable[tuple[Seeds, Seeds]]) -> Compare:
    """Compare pairs of methods, corrected over all those wanted; equal pairs are one."""
    pairs = {identity(a, b): statistics.paired(a, b) for a, b in wanted}
    corrected = dict(zip(pairs, statistics.holm([pair.p for pair in pairs.values()]), strict=True))
    return lambda a, b: Comparison(pairs[identity(a, b)], corrected[identity(a, b)])


def identity(a: Seeds, b: Seeds) -> tuple[tuple[tuple[int, float], ...], ...]:
    return tuple(a.items()), tuple(b.items())


# -- the studies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One accounting of a study. Only published CKD depends on it, so the others' runs are those of any accounting."""

    study: str
    section: Section
    curves: Mapping[str, Curve]

    @property
    def accounting(self) -> str:
        return ACCOUNTINGS[self.section.accounting]

    def at(self, method: str, calls: int) -> Seeds:
        return self.curves.get(method, {}).get(calls, {})

    def means(self, methods: Sequence[str], calls: int) -> list[str]:
        """Calls, number of seeds and mean accuracies, as cells."""
        return [f"{calls:,}", seeds(*(self.at(m, calls) for m in methods)), *(mean(self.at(m, calls)) for m in methods)]

    def both(self, a: str, b: str, calls: int) -> bool:
        return bool(self.at(a, calls).keys() & self.at(b, calls).keys())


def parts(folder: Path, study: str = "") -> list[Part]:
    sections = [section for section in records.sections(records.read(folder)) if section.runs]
    shared = {m: c for section in sections for m, c in section.curves.items() if m in (KD, MSE, CKD)}
    return [Part(study or section.title, section, shared | section.curves) for section in sections]


def finished() -> dict[str, list[Part]]:
    """The parts of every study here that has runs, by folder."""
    return {
        folder: parts(HERE / folder, name)
        for folder, name in STUDIES.items()
        if (HERE / folder / records.RUNS).is_file()
    }


def rows_of(table: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (table, *rows)]
    return "\n".join([lines[0], "|---" * len(table) + "|", *lines[1:]])


def mean(values: Seeds) -> str:
    return f"{statistics.summarise(list(values.values())).mean:.1f}" if values else "-"


def seeds(*of: Seeds) -> str:
    numbers = sorted({len(each) for each in of if each})
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


# -- README.md ---------------------------------------------------------------------------------------------------------


def as_published(studies: Sequence[Part]) -> str:
    """Does CKD save calls as published: published CKD and its recentred form against KD."""
    asked = ((PUBLISHED, KD), (RECENTRED, KD), (RECENTRED, PUBLISHED))
    places = [(part, n) for part in several(studies) for n in part.section.calls if part.both(PUBLISHED, KD, n)]
    compare = comparisons((p.at(a, n), p.at(b, n)) for p, n in places for a, b in asked if p.both(a, b, n))
    rows = [
        [part.study, part.accounting, f"{n:,}", seeds(*(part.at(m, n) for m in (KD, PUBLISHED, RECENTRED))),
         mean(part.at(KD, n)), *differences(part, n, asked, compare)]
        for part, n in places
    ]  # fmt: skip
    header = ["study", "inputs seen", "calls", "seeds", "KD", "published − KD"]
    names = {PUBLISHED: "CKD as published", RECENTRED: "The same, recentred,"}
    told = [
        tally(f"{words} against KD", [compare(p.at(m, n), p.at(KD, n)) for p, n in places if p.both(m, KD, n)])
        for m, words in names.items()
    ]
    return "\n\n".join([rows_of([*header, "recentred − KD", "recentred − published"], rows), " ".join(told)])


def forms(studies: Sequence[Part]) -> str:
    """CKD as it is here, and plain regression, against KD and each other."""
    asked = ((CKD, KD), (MSE, KD), (CKD, MSE))
    all_places = [(part, n) for part in several(studies) for n in part.section.calls if part.both(CKD, KD, n)]
    places = {(part.study, n): (part, n) for part, n in all_places}.values()  # the accounting changes nothing here
    compare = comparisons((p.at(a, n), p.at(b, n)) for p, n in places for a, b in asked if p.both(a, b, n))
    rows = [[part.study, *part.means((KD, MSE, CKD), n), *differences(part, n, asked, compare)] for part, n in places]
    header = ["study", "calls", "seeds", "KD", "MSE", "CKD", "CKD − KD", "MSE − KD", "CKD − MSE"]
    told = [
        tally(
            f"{label(a)} against {label(b)}",
            [compare(p.at(a, n), p.at(b, n)) for p, n in places if p.both(a, b, n)],
        )
        for a, b in asked
    ]
    return "\n\n".join([rows_of(header, rows), " ".join(told)])


def several(studies: Sequence[Part]) -> list[Part]:
    return [part for part in studies if part.study not in SINGLE]


def differences(part: Part, n: int, asked: Iterable[tuple[str, str]], compare: Compare) -> list[str]:
    return [compare(part.at(a, n), part.at(b, n)).text if part.both(a, b, n) else "-" for a, b in asked]


def single(studies: Sequence[Part]) -> str:
    """The single runs of the paper's own student, best first."""
    runs = [(SINGLE[part.study], run) for part in studies if part.study in SINGLE for run in part.section.runs]
    rows = [
        [label(run.method), protocol, f"{run.calls:,}", f"{run.accuracy:.1f}", f"{run.validation:.1f}",
         f"{run.epochs}", f"{run.images_seen:,}"]
        for protocol, run in sorted(runs, key=lambda found: -found[1].accuracy)
    ]  # fmt: skip
    header = ["method", "protocol", "calls", "test accuracy", "best validation", "epochs", "inputs seen"]
    return rows_of(header, rows)


def tally(words: str, found: Sequence[Comparison]) -> str:
    """How many comparisons of a table can be claimed, and to which side."""
    better = sum(each.is_clear and each.pair.difference > 0 for each in found)
    worse = sum(each.is_clear and each.pair.difference < 0 for each in found)
    return f"{words}: better in {better} of {len(found)} rows, worse in {worse}, not told apart in the others."


def calls(studies: Sequence[Part]) -> str:
    """Calls that KD and both forms of CKD need for an accuracy, and what these save (delta of table 1)."""
    rows = []
    for part in studies:
        curves = {m: part.curves[m] for m in (KD, PUBLISHED, RECENTRED, CKD) if len(part.curves.get(m, {})) > 1}
        if not {KD, PUBLISHED} <= curves.keys():
            continue
        goals = [g for g in tables.targets(curves) if not math.isnan(statistics.calls_to_reach(curves[KD], g).value)]
        for goal in goals[:: math.ceil(len(goals) / TARGETS)] if goals else []:
            cells = [needs(curves, method, goal) for method in (KD, PUBLISHED, RECENTRED, CKD)]
            rows.append([part.study, part.accounting, f"{goal:g} %", *cells])
    return rows_of(["study", "inputs seen", "accuracy", "KD", "published (Δ)", "recentred (Δ)", "CKD (Δ)"], rows)


def needs(curves: Mapping[str, Curve], method: str, goal: float) -> str:
    """The calls of a method, and in brackets the percentage that they save against those of KD."""
    if method not in curves:
        return "-"
    ours, theirs = (statistics.calls_to_reach(curves[name], goal).value for name in (method, KD))
    if math.isnan(ours):
        bound = tables.outside(curves[method], goal)
        end = float(bound[2:].replace(",", ""))
        return f"{bound} (Δ {'<' if bound[0] == '>' else '>'} {100 * (1 - end / theirs):.0f} %)"
    if method == KD:
        return f"{ours:,.0f}"
    cell = percent(statistics.saving(curves[method], [curves[KD]], goal))
    return f"{ours:,.0f} ({cell.text}{f' {cell.detail}' if cell.detail else ''})"


def levers(_: Sequence[Part]) -> str:
    """What saves calls beside the method, from the runs of benchmarks/fewer_calls.py; intervals hold together."""
    baselines = (KD, MSE)
    tail = TAIL / (len(LEVERS) * len(baselines))
    rows = []
    for task, target, arm, words in LEVERS:
        curves = lever_curves(HERE / "fewer-calls" / f"{task}.csv")
        savings = [statistics.saving(curves[arm], [curves[name]], target, tail) for name in baselines]
        calls = statistics.calls_to_reach(curves[arm], target).value
        rows.append([words, f"{target} %", f"{calls:,.0f}", *map(factor, savings)])
    header = ["task: recipe", "target", "calls", "KD needs", "MSE needs"]
    told = f"Times the calls; the {len(rows) * len(baselines)} intervals hold together at 95 % (Bonferroni)."
    return f"{rows_of(header, rows)}\n\n{told} Bold: the interval excludes 1."


def lever_curves(path: Path) -> dict[str, dict[int, dict[int, float]]]:
    curves: dict[str, dict[int, dict[int, float]]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if row["test"]:  # others chose the learning rate
                of_calls = curves.setdefault(row["arm"], {}).setdefault(int(row["calls"]), {})
                of_calls[int(row["seed"])] = float(row["test"])
    return curves


def factor(less: IntervalEstimate) -> str:
    """The calls of a baseline over those of a method, from the percentage that this saves."""
    value, low, high = (
        math.nan if math.isnan(each) else 1 / (1 - each / 100) if each < 100 else math.inf
        for each in (less.value, less.low, less.high)
    )
    mark = "**" if low > 1 else ""
    ends = f"{max(low, 0.0):.2f} to {high:.2f}" if math.isfinite(high) else f"at least {max(low, 0.0):.2f}"
    return f"{mark}{value:.2f}{mark} ({ends})"


def worth(_: Sequence[Part]) -> str:
    """What a row of docs/deviations.md changes: a method as the authors have that row, less the method by default."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for run in records.read(*(HERE / folder for folder in DEVIATIONS)):
        if run.status == "done" and run.purpose == "result":
            found.setdefault((run.student, run.method), {})[run.seed] = run.accuracy
    pairs = {}
    for student, method in found:
        base, cut, number = method.rpartition("_D")
        if cut:
            both = found[student, base], found[student, method]
            pairs[int(number), base, student] = both[::-1] if f"D{number}" in FOLLOWED else both
    together = (HERE / "schedule-small", HERE / "schedule-small-authors")
    ours, theirs = ({(p.section.accounting, m): p.at(m, 320) for p in parts(f) for m in p.curves} for f in together)
    all_rows = {m: (ours["published", m], theirs["published", m]) for m in (KD, PUBLISHED, RECENTRED)}
    compare = comparisons((b, a) for a, b in (*pairs.values(), *all_rows.values()))
    rows = [
        [f"D{number}", label(base), label(student), mean(a), mean(b), compare(b, a).text]
        for (number, base, student), (a, b) in sorted(pairs.items())
    ]
    rows += [["all but D6", label(m), "cnn_16", mean(a), mean(b), compare(b, a).text] for m, (a, b) in all_rows.items()]
    return rows_of(["row", "method", "student", "by default", "as the authors", "difference"], rows)


BLOCKS: dict[str, Callable[[Sequence[Part]], str]] = {
    "published": as_published,
    "calls": calls,
    "single": single,
    "forms": forms,
    "levers": levers,
    "worth": worth,
}


PAGES: dict[Path, Sequence[str]] = {
    PAGE: ["published", "calls", "single", "forms", "levers"],
    HERE.parent / "README.md": ["levers"],
    HERE.parent / "docs" / "choosing.md": ["levers"],
    HERE.parent / "docs" / "deviations.md": ["worth"],
    HERE / "fewer-calls.md": ["levers"],
}


def written(page: str, studies: Mapping[str, Sequence[Part]], names: Iterable[str]) -> str:
    """A page with these tables, each between `<!-- name -->` and `<!-- end -->`, from the runs."""
    everything = [part for each in studies.values() for part in each]
    for name in names:
        before, start, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not start or not end:
            raise SystemExit(f"the page has no place <!-- {name} --> ... <!-- end -->.")
        page = f"{before}{start}{BLOCKS[name](everything)}\n{end}{after}"
    return page


# -- studies.md --------------------------------------------------------------------------------------------------------


def detail(studies: Mapping[str, Sequence[Part]]) -> str:
    """Every table of every study."""
    texts = ["# All tables of the studies", "Written by `python results/answers.py --write` alone."]
    for folder, found in studies.items():
        runs = (Path(folder) / records.RUNS).as_posix()
        texts += [f"## {STUDIES[folder]}", f"Runs: [{runs}]({runs}).", everything_of(found)]
    return "\n\n".join(texts) + "\n"


def everything_of(found: Sequence[Part]) -> str:
    """Accuracies, differences, calls needed and learning rates of one study."""
    compare = comparisons((a, b) for part in found for *_, a, b in asked_of(part))
    texts, seen = list[str](), set()
    for part in found:
        section, rows = part.section, []
        for question, names, n, a, b in asked_of(part):
            if identity(a, b) not in seen:
                seen.add(identity(a, b))
                rows.append([question, names, f"{n:,}", *figures(compare(a, b))])
        texts += [f"### {section.title}: {section.conditions}", without_title(tables.accuracy(section))]
        if rows:
            header = ["question", "difference", "calls", "points", "95 % interval", "seeds", "p", "corrected"]
            texts.append(rows_of(header, rows))
        shares = [[f"{n:,}", gain_share(*(part.at(m, n) for m in (MSE, KD, CKD)))] for n in section.calls]
        if any(share for _, share in shares):
            header = ["calls", "share of CKD's gain over KD that regression gives (95 % interval)"]
            texts.append(rows_of(header, [row for row in shares if row[1]]))
        for table in (tables.calls_to_accuracy(section), tables.selection(section)):
            if table.rows:
                texts.append(f"**{table.title}**\n\n{without_title(table)}")
    return "\n\n".join(texts)


def without_title(table: Table) -> str:
    return markdown(table).partition("\n\n")[2].strip()


def asked_of(part: Part) -> list[tuple[str, str, int, Seeds, Seeds]]:
    """The questions that a part's runs answer: (words, names, calls, seeds of both methods)."""
    return [
        (question, f"`{a}` − `{b}`", n, part.at(a, n), part.at(b, n))
        for question, (a, b) in QUESTIONS.items()
        for n in part.section.calls
        if part.both(a, b, n)
    ]


def figures(found: Comparison) -> list[str]:
    pair = found.pair
    if pair.n < 2:
        return [f"{pair.difference:+.1f}", "-", f"{pair.n}", "-", "-"]
    return [
        f"{pair.difference:+.1f}",
        f"{pair.low:+.1f} to {pair.high:+.1f}",
        f"{pair.n}",
        small(pair.p),
        small(found.corrected),
    ]


def small(p: float) -> str:
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def gain_share(mse: Seeds, kd: Seeds, ckd: Seeds) -> str:
    """(mse - kd) / (ckd - kd), of means over seeds; no number where CKD gains nothing on KD; empty below two seeds."""
    names = sorted(mse.keys() & kd.keys() & ckd.keys())
    if len(names) < 2:
        return ""
    gains = [np.array([each[seed] - kd[seed] for seed in names]) for each in (mse, ckd)]
    if gains[1].mean() <= 0:
        return "CKD gains nothing on KD"
    low, high = fieller(*gains)
    interval = "not bounded" if math.isnan(low) else f"{low:.0%} to {high:.0%}"
    return f"{gains[0].mean() / gains[1].mean():.0%} ({interval})"


def fieller(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """95 % interval of mean(above) / mean(below), paired: the r at which a t test of above - r below finds nothing.

    nan, nan where `below` itself is not significantly different from zero.
    """
    from scipy.stats import t

    n = len(above)
    (xx, xy), (_, yy) = np.cov(above, below) * float(t.isf(0.025, n - 1)) ** 2 / n
    x, y = above.mean(), below.mean()
    a, b, c = y * y - yy, x * y - xy, x * x - xx  # a r^2 - 2 b r + c <= 0
    if a <= 0:
        return math.nan, math.nan
    root = math.sqrt(b * b - a * c)
    return (b - root) / a, (b + root) / a


# -- single runs -------------------------------------------------------------------------------------------------------

MEASURED = ("accuracy", "accuracy_last", "validation", "top5", "calibration_error", "agreement", "teacher_accuracy")
COUNTED = ("epochs", "images_seen", "steps", "seconds")


def collect(folders: Sequence[Path], out: Path) -> None:
    """Write OUT/runs.csv from the folders of finished runs; a run's method is the name of its folder."""
    (out / records.RUNS).unlink(missing_ok=True)
    for folder in folders:
        path = folder / "run.json"
        run = json.loads(path.read_text()) if path.is_file() else {"status": "not begun"}
        if run["status"] != "done":
            print(f"{folder} is not finished and is left out.")
            continue
        settings, results = run["settings"], run["results"]
        with open(folder / "metrics.csv", newline="") as file:
            curve = [[float(row[name]) for name in ("epoch", "loss", "validation")] for row in csv.DictReader(file)]
        record = Record(
            key=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32],
            dataset=Path(settings["data"]).name,
            teacher=settings["teacher_name"],
            student=settings["student"]["name"],
            method=folder.name,
            purpose="result",
            paid=run["accounts"]["paid"] + run["accounts"]["served"],
            versions=run["versions"],
            settings=settings,
            curve=curve,
            **{name: settings[name] for name in ("calls", "seed", "learning_rate", "schedule", "accounting")},
            **{name: results[name] for name in (*MEASURED, *COUNTED)},
        )
        records.append(out, record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, default=HERE, help="a folder with runs.csv, or that file")
    parser.add_argument("--write", action="store_true", help="write the tables of pages, and studies.md")
    parser.add_argument("--collect", nargs="+", type=Path, metavar="RUN", help="folders of single runs")
    parser.add_argument("--out", type=Path, help="where --collect writes runs.csv")
    given = parser.parse_args()
    if given.collect:
        if given.out is None:
            parser.error("--collect needs --out FOLDER")
        collect(given.collect, given.out)
    elif given.write:
        studies = finished()
        for page, names in PAGES.items():
            page.write_text(written(page.read_text(), studies, names))
        DETAIL.write_text(detail(studies))
    else:
        print(everything_of(parts(given.study.parent if given.study.is_file() else given.study)))


if __name__ == "__main__":
    main()
