"""The report of a study: figures, tables and one self-contained page, rebuilt from run records alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from tuition import disk, escape
from tuition.errors import UserError
from tuition.studies import figures, records, statistics, tables
from tuition.studies.records import Record, Section
from tuition.studies.tables import Cell, Table

GENERATOR = '<meta name="generator" content="tuition">'  # by which a page of ours is known
PAGE, COMMAND = "report.html", "command.txt"  # command.txt: the command that made a folder's runs, one a line
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
        raise UserError(f"there are no runs in {', '.join(map(str, directories))}; let the study finish one first.")
    spectra = records.read_spectra(*directories)
    parts, contents = [], []
    for number, section in enumerate(records.sections(runs)):
        drawn = draw(section, spectra, out / "figures")
        made = tables.all_tables(section)
        tables.write(made, out / "tables")
        parts.append(_section(f"section-{number}", section, drawn, made))
        contents.append(
            f'<li><a href="#section-{number}">{escape.page(section.title)}</a> {escape.page(section.conditions)}'
        )
    template = resources.files("tuition.studies").joinpath("report_template.html").read_text(encoding="utf-8")
    page = {
        "title": escape.page(f"Study {out.resolve().name}"),
        "summary": _summary(runs),
        "contents": f"<ul>{''.join(contents)}</ul>" if len(contents) > 1 else "",
        "failures": _failures(runs),
        "sections": "".join(parts),
        "accounts": _table(tables.accounts(runs)),
        "versions": _table(tables.versions(runs)),
        "commands": escape.page("\n".join(_commands(directories, out))),
        "data": json.dumps(_embedded(runs), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    out.mkdir(parents=True, exist_ok=True)
    page["policy"] = _policy(template, template + page["sections"])
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: page[match[1]], template)
    disk.write(out / PAGE, text.encode())
    return out / PAGE


def draw(section: Section, spectra: Mapping[str, Sequence[float]], directory: Path) -> list[tuple[Path, str]]:
    """Draw what the section's runs can show; (file without suffix, caption) of each figure."""
    drawn: list[tuple[Path, str]] = []
    curves = section.curves
    results = [
        {"method": method, "calls": calls, "values": values, **vars(statistics.summarise(values))}
        for method, curve in curves.items()
        for calls, values in ((n, list(found.values())) for n, found in curve.items())
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
    found: dict[int, dict[str, list[Sequence[float]]]] = defaultdict(lambda: defaultdict(list))
    for run in section.runs:
        if run.key in spectra:
            found[run.calls][run.method].append(spectra[run.key])
    for calls, methods in sorted(found.items()):
        path = directory / f"spectra-{section.slug}-{calls}"
        values = {method: np.array(methods[method]) for method in curves if method in methods}
        figures.spectra(values, path, title=f"{calls:,} calls")
        drawn.append((path, "Singular values of the student's features over the test set (effective rank)."))
    return drawn


# -- the page ----------------------------------------------------------------------------------------------------------


def _section(anchor: str, section: Section, drawn: Sequence[tuple[Path, str]], made: Sequence[Table]) -> str:
    pictures = "".join(
        f'<figure role="group">{_inline(path)}<figcaption>{escape.page(caption)}</figcaption></figure>'
        for path, caption in drawn
    )
    return (
        f'<section id="{anchor}"><h2>{escape.page(section.title)}</h2>'
        f'<p class="conditions">{escape.page(section.conditions)}</p>'
        f'<div class="figures">{pictures}</div>{"".join(map(_table, made))}</section>'
    )


def _policy(scripts: str, styles: str) -> str:
    """The page's Content-Security-Policy: nothing is fetched, and only the scripts and styles of these texts count."""

    def hashes(kind: str, text: str) -> str:
        bodies = re.findall(rf"<{kind}(?: type=\"text/css\")?>(.*?)</{kind}>", text, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in dict.fromkeys(bodies))
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; script-src {hashes('script', scripts)}; "
        f"style-src-elem {hashes('style', styles)}; style-src-attr 'unsafe-inline'"
    )


def _inline(path: Path) -> str:
    """A figure as SVG that follows the page's theme and width."""
    svg = path.with_name(path.name + ".svg").read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    root, rest = svg.split(">", 1)
    svg = re.sub(r' (width|height)="[^"]*"', "", root) + ' role="img">' + rest
    for colour, name in THEMED.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col"><button type="button">{escape.page(name)}</button></th>' for name in table.header)
    body = "".join(
        f"<tr{' class=published' if row[0].detail == tables.PUBLISHED else ''}>{''.join(map(_cell, row))}</tr>"
        for row in table.rows
    )
    kind = table.name.split("-")[0]
    return (
        f'<div class="table {kind}"><h3>{escape.page(table.title)}</h3><div class="scroll"><table class="sortable">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="note">{escape.page(table.note)}</p></div>'
    )


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None or math.isnan(cell.value) else f' data-value="{cell.value:.6g}"'
    text = f"<strong>{escape.page(cell.text)}</strong>" if cell.best else escape.page(cell.text)
    return f"<td{value}>{text}{f' <small>{escape.page(cell.detail)}</small>' if cell.detail else ''}</td>"


def _summary(runs: Sequence[Record]) -> str:
    once = list({run.key: run for run in runs}.values())
    hours = sum(run.seconds for run in once if not math.isnan(run.seconds)) / 3600
    counts = Counter(run.status for run in once)
    tiles = {
        "runs done": f"{counts['done']:,}",
        "failed": f"{counts['failed']:,}",
        "methods": len({run.method for run in runs}),
        "seeds": len({run.seed for run in runs}),
        "hours of training": f"{hours:,.1f}",
    }
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles.items())


def _failures(runs: Sequence[Record]) -> str:
    failed = [run for run in runs if run.status == "failed"]
    names = (f"{r.dataset}, {r.student}, {r.method}, {r.calls:,} calls, seed {r.seed}: {r.error}" for r in failed)
    items = "".join(f"<li>{escape.page(name)}</li>" for name in names)
    summary = f'<details class="failures"><summary>{len(failed)} failed</summary>'
    return f"{summary}<ul>{items}</ul></details>" if failed else ""


def _commands(directories: Sequence[Path], out: Path) -> list[str]:
    made = [
        path.read_text(errors="replace") for directory in directories if (path := Path(directory) / COMMAND).is_file()
    ]
    lines = dict.fromkeys(line for text in made for line in text.splitlines())
    return [*lines, shlex.join(["tuition", "report", *map(str, directories), "--out", str(out)])]


def _embedded(runs: Sequence[Record]) -> dict[str, Any]:
    """All runs for the page's script; settings that all of them share stand there once."""
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
