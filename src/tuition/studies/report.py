"""The report of a study: figures, tables and one self-contained page, rebuilt from run records alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tuition import disk
from tuition.errors import UserError
from tuition.studies import figures, paid_calls, records, statistics, tables, totals, verdict
from tuition.studies.records import Record, Section
from tuition.studies.table import write
from tuition.studies.templating import render, source

GENERATOR = '<meta name="generator" content="tuition">'  # by which a page of ours is known
PAGE, COMMAND = "report.html", "command.txt"  # command.txt: the commands of a study, one a line
THEMED = {figures.INK: "ink", figures.MUTED: "muted", figures.PAPER: "paper", figures.BLUE: "blue"}


def build(directories: Sequence[Path], out: Path) -> Path:
    """Merge the run records of several folders; write OUT/figures, OUT/tables and OUT/report.html.

    Returns:
        The page.

    Raises:
        UserError: a folder without records, or no run in any of them.
    """
    if not (out / PAGE).is_file() or GENERATOR not in (out / PAGE).read_text(encoding="utf-8", errors="replace"):
        disk.check_ours(out, ("runs.csv",), "a report")
    with disk.hold(out):
        return _build(directories, out)


def _build(directories: Sequence[Path], out: Path) -> Path:
    runs = records.read(*directories)
    if not runs:
        raise UserError(f"no runs were found in {', '.join(map(str, directories))}; let the study finish one first.")
    spectra = records.read_spectra(*directories)
    sections: list[dict[str, Any]] = []
    for section in records.sections(runs):
        drawn = [(_inline(path), caption) for path, caption in draw(section, spectra, out / "figures")]
        filled = tables.all_tables(section)
        write(filled, out / "tables")
        words = {"title": section.title, "conditions": section.conditions, "verdict": verdict.verdict(section)}
        sections.append({**words, "figures": drawn, "tables": filled})
    css, script = source("report.css"), source("report.js")
    stores = paid_calls.read(directories)
    known = all((Path(directory) / paid_calls.NAME).is_file() for directory in directories)
    common = [totals.paid(stores), *([] if known else [totals.accounts(runs)]), totals.versions(runs)]
    page = render(
        "report.html",
        title=f"Study {out.resolve().name}",
        policy=_policy(script, [css, *_styles(svg for section in sections for svg, _ in section["figures"])]),
        css=css,
        script=script,
        tiles=_tiles(runs),
        paid=verdict.paid(stores),
        failures=[run for run in runs if run.status == "failed"],
        sections=sections,
        common=[table for table in common if table.rows],
        commands=_commands(directories, out),
        data=_embedded(runs),
    )
    out.mkdir(parents=True, exist_ok=True)
    disk.write(out / PAGE, page.encode())
    return out / PAGE


def draw(section: Section, spectra: Mapping[str, Sequence[float]], directory: Path) -> list[tuple[Path, str]]:
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
        figures.accuracy_curves(results, path)
        drawn.append((path, "Accuracy against teacher calls: mean, and one standard deviation over seeds."))
    if results and len(section.calls) <= 3:
        most = section.calls[-1]
        path = directory / f"points-{section.slug}"
        figures.accuracy_points([r for r in results if r["calls"] == most], path, title=f"{most:,} calls")
        drawn.append((path, f"At {most:,} calls: every seed, the mean, and its 95 % interval."))
    of_runs: dict[int, dict[str, list[Sequence[float]]]] = defaultdict(lambda: defaultdict(list))
    for run in section.runs:
        if run.key in spectra:
            of_runs[run.calls][run.method].append(spectra[run.key])
    for calls, methods in sorted(of_runs.items()):
        path = directory / f"spectra-{section.slug}-{calls}"
        values = {method: np.array(methods[method]) for method in curves if method in methods}
        figures.spectra(values, path, title=f"{calls:,} calls")
        drawn.append((path, "Singular values of the student's features over the test set (effective rank)."))
    return drawn


# -- the page ----------------------------------------------------------------------------------------------------------


def _policy(script: str, styles: Iterable[str]) -> str:
    """The page's Content-Security-Policy: nothing is fetched, and only this script and these styles count."""

    def digests(bodies: Iterable[str]) -> str:
        each = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in dict.fromkeys(bodies))
        return " ".join(f"'sha256-{digest}'" for digest in each)

    return (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; script-src {digests([script])}; "
        f"style-src-elem {digests(styles)}; style-src-attr 'unsafe-inline'"
    )


def _styles(pictures: Iterable[str]) -> list[str]:
    return [body for svg in pictures for body in re.findall(r"<style[^>]*>(.*?)</style>", svg, re.DOTALL)]


def _inline(path: Path) -> Markup:
    """A figure as SVG that follows the page's theme and width."""
    svg = path.with_name(path.name + ".svg").read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    root, rest = svg.split(">", 1)
    svg = re.sub(r' (width|height)="[^"]*"', "", root) + ' role="img">' + rest
    for colour, name in THEMED.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)


def _tiles(runs: Sequence[Record]) -> dict[str, str]:
    once = list({run.key: run for run in runs}.values())
    hours = sum(run.seconds for run in once if not math.isnan(run.seconds)) / 3600
    counts = Counter(run.status for run in once)
    return {
        "runs done": f"{counts['done']:,}",
        "failed": f"{counts['failed']:,}",
        "methods": f"{len({run.method for run in runs})}",
        "seeds": f"{len({run.seed for run in runs})}",
        "hours of training": f"{hours:,.1f}",
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
