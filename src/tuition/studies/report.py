"""The report of a study: figures, tables and one self-contained page, rebuilt from run records alone."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tuition import disk, escape
from tuition.errors import UserError
from tuition.studies import (
    figures,
    needed,
    offsets,
    page,
    paid_calls,
    records,
    spectra,
    statistics,
    tables,
    totals,
    verdict,
)
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.records import Record, Section, Spectra
from tuition.studies.table import markdown, write
from tuition.studies.templating import render, source

COMMAND = "command.txt"  # the commands of a study, one a line
TEXT = "report.md"


def build(directories: Sequence[Path], out: Path) -> Path:
    """Merge the run records of several folders; write OUT/figures, OUT/tables, OUT/report.html and OUT/report.md.

    Returns:
        The page.

    Raises:
        UserError: a folder without records, or no run in any of them.
    """
    page.check_ours(out, (records.RUNS,))
    with disk.hold(out):
        return _build(directories, out)


def _build(directories: Sequence[Path], out: Path) -> Path:
    runs = records.read(*directories)
    if not runs:
        raise UserError(f"no runs were found in {', '.join(map(str, directories))}; let the study finish one first.")
    by_run = records.read_spectra(*directories)
    stores, sections = paid_calls.read(directories), list[dict[str, Any]]()
    for section in records.sections(runs):
        drawn = draw(section, by_run, out / "figures")
        filled = tables.all_tables(section, by_run)
        write(filled, out / "tables")
        words = {"title": section.title, "conditions": section.conditions}
        told = {"verdict": verdict.verdict(section, stores), "figures": drawn, "tables": filled}
        sections.append({**words, **told})
    known = all((Path(directory) / paid_calls.NAME).is_file() for directory in directories)
    common = [totals.paid(stores), *([] if known else [totals.accounts(runs)]), totals.versions(runs)]
    shown = {
        "title": f"Study {out.resolve().name}",
        "tiles": _tiles(runs, stores if known else []),
        "paid": verdict.paid(stores),
        "failures": [run for run in runs if run.status == "failed"],
        "common": [table for table in common if table.rows],
        "commands": _commands(directories, out),
    }
    out.mkdir(parents=True, exist_ok=True)
    disk.write(out / TEXT, _text(sections, shown).encode())
    disk.write(out / page.PAGE, _page(sections, shown, runs).encode())
    return out / page.PAGE


def _page(sections: Sequence[Mapping[str, Any]], shown: Mapping[str, Any], runs: Sequence[Record]) -> str:
    """The page, its figures inside."""
    drawn = [
        {**section, "figures": [(page.inline(path), caption) for path, caption in section["figures"]]}
        for section in sections
    ]
    css, script = source("report.css"), Markup(source("page.js") + source("report.js"))
    return render(
        "report.html",
        policy=page.policy(script, [css, *page.styles(svg for section in drawn for svg, _ in section["figures"])]),
        css=css,
        script=script,
        sections=drawn,
        data=_embedded(runs),
        **shown,
    )


def _text(sections: Sequence[Mapping[str, Any]], shown: Mapping[str, Any]) -> str:
    """The same in Markdown, which names the files of its figures."""
    parts = [{**section, "tables": [Markup(markdown(table)) for table in section["tables"]]} for section in sections]
    common = [Markup(markdown(table)) for table in shown["common"]]
    commands = [Markup(escape.line(command)) for command in shown["commands"]]  # code is not marked up
    return render("report.md", **{**shown, "sections": parts, "common": common, "commands": commands})


def draw(section: Section, by_run: Mapping[str, Spectra], directory: Path) -> list[tuple[Path, str]]:
    """Draw what the section's runs can show; (file without suffix, caption) of each figure."""
    drawn: list[tuple[Path, str]] = []
    curves = section.curves
    results = [
        {"method": method, "calls": calls, "values": values, **vars(statistics.summarise(values))}
        for method, curve in curves.items()
        for calls, values in ((n, list(by_seed.values())) for n, by_seed in curve.items())
    ]
    if len(section.calls) > 1:
        path = directory / f"accuracy-{section.slug}"
        figures.calls_and_accuracy(results, needed.along(curves), path)
        words = (
            "Teacher calls needed for an accuracy, with 95 % intervals over seeds (up to the frame where they leave "
            "the measured range). Beside it, accuracy against calls, with one standard deviation over seeds."
        )
        drawn.append((path, words))
    if results and len(section.calls) <= 3:
        most = section.calls[-1]
        path = directory / f"points-{section.slug}"
        figures.accuracy_points([r for r in results if r["calls"] == most], path, title=f"{most:,} calls")
        drawn.append((path, f"At {most:,} calls: every seed, the mean, and its 95 % interval."))
    for calls, outputs in spectra.groups(section, by_run).items():
        path = directory / f"spectra-{section.slug}-{calls}"
        figures.spectra(outputs, path, title=f"{calls:,} calls")
        words = f"of the student's centred {' and '.join(outputs)} over the test set, as shares of the largest"
        drawn.append((path, f"Singular values {words}; in brackets the effective ranks, in this order."))
    over_epochs = {"offset": "offset of the classes (logits)", "validation": "validation accuracy (%)"}
    for column, (name, words) in enumerate(over_epochs.items(), 1):
        values = {method: course[:, [0, column]] for method, course in offsets.courses(section).items()}
        if values:
            path = directory / f"{name}-{section.slug}"
            figures.over_epochs(values, path, ylabel=words)
            drawn.append((path, f"{words[0].upper()}{words[1:]} over the epochs, mean over seeds."))
    return drawn


# -- the page ----------------------------------------------------------------------------------------------------------


def _tiles(runs: Sequence[Record], stores: Sequence[PaidCalls]) -> dict[str, str]:
    once = list({run.key: run for run in runs}.values())
    hours = sum(run.seconds for run in once if not math.isnan(run.seconds)) / 3600
    counts = Counter(run.status for run in once)
    calls = {"teacher calls paid": f"{sum(each.accounts.paid for each in stores):,}"} if stores else {}
    return {
        "runs done": f"{counts['done']:,}",
        "failed": f"{counts['failed']:,}",
        "methods": f"{len({run.method for run in runs})}",
        "seeds": f"{len({run.seed for run in runs})}",
        **calls,
        "hours of training": f"{hours:,.1f}" if hours >= 0.1 else "under 0.1",
    }


def _commands(directories: Sequence[Path], out: Path) -> list[str]:
    paths = [path for directory in directories if (path := Path(directory) / COMMAND).is_file()]
    lines = dict.fromkeys(line for path in paths for line in path.read_text(errors="replace").splitlines())
    return [*lines, shlex.join(["tuition", "report", *map(str, directories), "--out", str(out)])]


def _embedded(runs: Sequence[Record]) -> dict[str, Any]:
    """All runs for the page's script, sorted; settings that all of them share are given once."""
    runs = sorted(runs, key=lambda r: (r.dataset, r.teacher, r.student, r.method, r.calls, r.seed, r.learning_rate))
    flat = [records.flatten(run.settings) for run in runs]
    shared = {k: v for k, v in flat[0].items() if all(k in other and other[k] == v for other in flat)}
    kinds = list({json.dumps(run.versions, sort_keys=True): run.versions for run in runs}.values())
    rows = [
        asdict(run)
        | {"settings": {k: v for k, v in settings.items() if k not in shared}, "versions": kinds.index(run.versions)}
        | {"accounting": records.ACCOUNTINGS[run.accounting]}
        for run, settings in zip(runs, flat, strict=True)
    ]
    return _finite({"shared": shared, "versions": kinds, "runs": rows})


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
