"""Figures for print and page: one column wide, vector and PNG, legible without colour.

Colours are those of Okabe and Ito (2008), told apart by every common form of colour blindness; every line also
carries markers, and its name where it ends. The methods in STYLES look the same in every figure.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tuition import disk, escape
from tuition.data.plotting import matplotlib
from tuition.studies.names import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

INK, MUTED, PAPER = "#1f2328", "#6e7781", "#ffffff"  # text; frame, grid and references; the page itself
ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"
SUFFIXES = (".png", ".svg", ".pdf")
WIDTH, HEIGHT = 3.5, 2.6  # inches: a column of a two-column page
LONGEST_NAME = 28  # characters of a method's name
WIDE, LEGEND = 5.0, 3  # inches of two panels, whose text is legible on a phone; columns of their legend
REFERENCE: Any = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1}

SETTINGS: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), MUTED),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width", "grid.linewidth"), 0.6),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "text.parse_math": False,  # names are text, a dollar in them too
    "grid.alpha": 0.25,
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "svg.hashsalt": "tuition",  # equal results give equal files
    "pdf.fonttype": 42,  # publishers refuse Type 3
}


class Style(NamedTuple):
    """How one method is drawn."""

    colour: str
    marker: str
    dashes: str = "-"
    width: float = 1.2

    def marks(self) -> dict[str, Any]:
        size = 6.0 if self.marker in "*PX" else 4.5  # thin markers need more room to weigh the same
        edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.5}
        return {"color": self.colour, "linestyle": self.dashes, "marker": self.marker, "markersize": size, **edge}


STYLES = {
    "ckd": Style(VERMILLION, "o", width=1.8),
    "ckd_exact": Style(VERMILLION, "d", "--", 1.8),
    "ckd_published": Style(VERMILLION, "h", ":", 1.8),
    "ckd_rounds": Style(GREEN, "p", width=1.8),
    "kd": Style(BLUE, "s"),
    "rkd": Style(GREEN, "^"),
    "dist": Style(ORANGE, "v"),
    "mixup": Style(PURPLE, "D"),
    "crd": Style(SKY, "P"),
    "ce": Style(MUTED, "X"),
    "mse": Style(INK, "*"),
    "fitnets": Style(BLUE, "<"),
    "fitnets_crd": Style(SKY, "<"),
    "fitnets_ckd": Style(VERMILLION, "<"),
    "vid": Style(GREEN, ">", "--"),
    "vid_crd": Style(PURPLE, ">", "--"),
    "vid_ckd": Style(ORANGE, ">", "--"),
}
COLOURS = (VERMILLION, GREEN, BLUE, PURPLE, ORANGE, SKY, INK)
SPARE = [Style(COLOURS[i % 7], "^pH8v"[i % 5], "-.") for i in range(35)]  # 7 and 5 are coprime: no pair comes twice


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """A style for each method: its own if it has one, else a spare one, in order."""
    spare = cycle(SPARE)
    return {method: STYLES.get(method) or next(spare) for method in methods}


def calls_and_accuracy(
    results: Sequence[Mapping[str, Any]],
    needed: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    title: str | None = None,
    reference: Mapping[str, float] | None = None,
) -> list[Path]:
    """Two panels, one legend: calls needed against target accuracy, and accuracy against calls, a curve a method.

    Left, the 95 % interval of the calls at each target that is marked; one that leaves the measured range runs to the
    frame. Right, the mean, and one standard deviation over seeds as a band.

    Args:
        results: rows with keys `method`, `calls`, `mean` and `std` (percent; None or nan: no band), `seeds`.
        needed: rows with keys `method`, `target` (percent), `calls`, `low` and `high` (nan calls: not reached or fewer
            than measured; nan ends: no interval), and `marked`.
        path: with the suffix .png, .svg or .pdf that file alone is written; without one, all three.
        reference: horizontal lines by name, such as the teacher's accuracy.

    Returns:
        The files written.
    """
    looks = styles(dict.fromkeys(row["method"] for row in results))
    names = len(looks) + len(reference or {})
    with _figure(title, 2.35 + 0.17 * math.ceil(names / LEGEND), WIDE, panels=2) as (figure, (left, right)):
        counts = sorted({float(row["calls"]) for row in results})
        for method, style in looks.items():
            _needed_curve(left, [row for row in needed if row["method"] == method], counts, style)
            rows = sorted((row for row in results if row["method"] == method), key=lambda row: row["calls"])
            calls, mean, std = np.array([(row["calls"], row["mean"], row["std"]) for row in rows], dtype=float).T
            right.fill_between(calls, mean - std, mean + std, color=style.colour, alpha=0.16, linewidth=0)
            right.plot(calls, mean, linewidth=style.width, zorder=2 + style.width, clip_on=False, **style.marks())
        for value in (reference or {}).values():
            right.axhline(value, **REFERENCE)
        _call_axis(left.yaxis, counts)
        _call_axis(right.xaxis, counts)
        left.set(xlabel="target accuracy (%)", ylabel="teacher calls needed")
        right.set(xlabel="teacher calls", ylabel="test accuracy (%)")
        _legend(figure, {_named(method): style for method, style in looks.items()}, reference or {})
        return _save(figure, path)


def _needed_curve(axes: Axes, rows: Sequence[Mapping[str, Any]], counts: Sequence[float], style: Style) -> None:
    """The calls of one method; an interval that leaves the range of `counts` runs to its end."""
    if not rows:
        return
    columns = [(row["target"], row["calls"], row["low"], row["high"], row["marked"]) for row in rows]
    target, calls, low, high, marked = np.array(sorted(columns), dtype=float).T
    axes.plot(target, calls, linewidth=style.width, zorder=2 + style.width, **{**style.marks(), "marker": ""})
    shown = (marked > 0) & ~np.isnan(calls)
    known = shown & ~np.isnan(low)
    ends = np.clip([low[known], high[known]], counts[0], counts[-1])
    axes.vlines(target[known], *ends, color=style.colour, linewidth=1.0, alpha=0.6)
    axes.plot(target[shown], calls[shown], zorder=5, clip_on=False, **{**style.marks(), "linestyle": ""})


def _named(method: str) -> str:
    """A method's name, without its middle where it would leave no room for the axes."""
    return escape.shorten(label(method), LONGEST_NAME)


def _legend(figure: Figure, looks: Mapping[str, Style], reference: Iterable[str] = (), columns: int = LEGEND) -> None:
    """Below the panels, one entry a name."""
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], linewidth=style.width, label=escape.line(name), **style.marks()) for name, style in looks.items()
    ]
    entries += [Line2D([], [], label=escape.line(name), **REFERENCE) for name in reference]
    figure.legend(
        handles=entries, loc="outside lower center", ncols=min(columns, len(entries)), frameon=False, handlelength=2.4
    )


def spectra(values: Mapping[str, Mapping[str, np.ndarray]], path: Path, *, title: str | None = None) -> list[Path]:
    """Singular values by rank, each spectrum divided by its largest value, one panel an output (figure 5).

    The legend has the effective ranks of each method, in the order of the panels.

    Args:
        values: for each output (features, logits), and for each method, the singular values, descending, of its runs
            (runs, r).
        path: as in `calls_and_accuracy`.
    """
    from matplotlib.ticker import NullFormatter

    from tuition.studies.statistics import effective_rank

    looks = styles(dict.fromkeys(method for by_method in values.values() for method in by_method))
    ranks: dict[str, list[str]] = {method: [] for method in looks}
    height = 2.35 + 0.17 * math.ceil(len(looks) / 2)  # names with their ranks take half the width
    with _figure(title, height, WIDE, panels=len(values)) as (figure, axes):
        for panel, (output, by_method) in zip(np.atleast_1d(axes), values.items(), strict=True):
            panel.set_yscale("log")
            for method, runs in by_method.items():
                spectrum = (runs / runs[:, :1]).mean(axis=0)
                shown = spectrum > 1e-4  # what is left is rounding
                every, at = max(1, len(spectrum) // 8), np.arange(1, len(spectrum) + 1)
                marks = looks[method].marks()
                panel.plot(at[shown], spectrum[shown], linewidth=1.2, markevery=every, clip_on=False, **marks)
                ranks[method].append(f"{np.mean([effective_rank(run) for run in runs]):.1f}")
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set(xlabel="rank", ylabel="singular value / largest")
            panel.set_xlim(1, max(runs.shape[1] for runs in by_method.values()))
            panel.set_title(output, fontweight="normal")
        names = {f"{_named(method)} ({', '.join(ranks[method])})": style for method, style in looks.items()}
        _legend(figure, names, columns=2)
        return _save(figure, path)


def over_epochs(values: Mapping[str, np.ndarray], path: Path, *, ylabel: str, title: str | None = None) -> list[Path]:
    """A figure of a training over its epochs, one line a method.

    Args:
        values: for each method (points, 2): epoch and figure.
        path: as in `calls_and_accuracy`.
    """
    ends: list[tuple[float, str, Style]] = []
    with _figure(title) as (figure, axes):
        for method, style in styles(values).items():
            epochs, course = values[method].T
            every = max(1, len(epochs) // 6)
            axes.plot(epochs, course, linewidth=style.width, markevery=every, **style.marks())
            ends.append((course[-1], _named(method), style))
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.set_xlim(left=0, right=max(course[-1, 0] for course in values.values()))
        _name_ends(axes, ends)
        return _save(figure, path)


def accuracy_points(results: Sequence[Mapping[str, Any]], path: Path, *, title: str | None = None) -> list[Path]:
    """One line a method at one number of calls: every seed, the mean, and its 95 % interval over seeds.

    Args:
        results: rows with keys `method`, `mean`, `low`, `high` and `values` (percent; nan low and high: no interval).
        path: as in `calls_and_accuracy`.
    """
    with _figure(title, height=0.75 + 0.26 * len(results)) as (figure, axes):
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x")
        looks = styles(row["method"] for row in results)
        for y, row in enumerate(results):
            style = looks[row["method"]]
            axes.plot([row["low"], row["high"]], [y, y], color=style.colour, linewidth=1.4, solid_capstyle="butt")
            axes.plot(row["values"], [y] * len(row["values"]), "|", color=style.colour, alpha=0.55, markersize=7)
            axes.plot([row["mean"]], [y], zorder=4, clip_on=False, **style.marks())
        axes.set_yticks(range(len(results)), [escape.line(_named(row["method"])) for row in results])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.set_xlabel("test accuracy (%)")
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, 0), min(high, 100))  # the interval of two seeds leaves the range of a percentage
        return _save(figure, path)


@contextmanager
def _figure(
    title: str | None, height: float = HEIGHT, width: float = WIDTH, panels: int = 1
) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes, several of several panels, without pyplot; the settings hold until it is saved."""
    library = matplotlib()
    from matplotlib.figure import Figure

    with library.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, panels)
        for each in np.atleast_1d(axes):
            each.grid(axis="y")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        yield figure, axes


def _call_axis(axis: XAxis | YAxis, calls: list[float]) -> None:
    """Ticks where something was measured; powers of two when the counts grow by factors rather than steps."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes, across = axis.axes, axis.axis_name == "x"
    if len(calls) > 2 and all(b >= 1.6 * a > 0 for a, b in pairwise(calls)):
        axes.set(**{f"{axis.axis_name}scale": "log"})
    places = (axes.transData + axes.transAxes.inverted()).transform([(count, count) for count in calls])[:, 1 - across]
    ticks, apart = [calls[-1]], 0.075 * len(f"{calls[-1]:,.0f}") if across else 0.09
    last = places[-1]
    for count, place in zip(calls[-2::-1], places[-2::-1], strict=True):
        if last - place >= apart:  # else its number would run into the next
            ticks.append(count)
            last = place
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _name_ends(axes: Axes, ends: list[tuple[float, str, Style]]) -> None:
    """Write each name right of the frame at the height where its line ends, moved apart to be legible."""
    scale = axes.transData + axes.transAxes.inverted()
    places = [(scale.transform((axes.get_xlim()[1], value))[1], name, style) for value, name, style in ends]
    places.sort(key=lambda end: end[0])
    for (height, name, style), moved in zip(places, spread([end[0] for end in places], gap=0.062), strict=True):
        axes.plot(
            [1, 1.05], [height, moved], transform=axes.transAxes, color=style.colour, linewidth=0.6, clip_on=False
        )
        if style.marker:
            axes.plot([1.06], [moved], transform=axes.transAxes, clip_on=False, **style.marks())
        left = 1.095 if style.marker else 1.06
        axes.text(left, moved, escape.line(name), transform=axes.transAxes, va="center_baseline", fontsize=7.5)
    for line in axes.lines:
        line.set_clip_on(False)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Heights nearest to ascending `values` (least squares) that lie at least `gap` apart, in [0, 1] if they fit."""
    blocks: list[tuple[float, int]] = []  # lowest height, how many names stacked on it
    for value in values:
        lowest, count = float(value), 1
        while blocks and blocks[-1][0] + gap * blocks[-1][1] > lowest:  # they touch: one block, placed at its mean
            below, size = blocks.pop()
            lowest = (below * size + (lowest - gap * size) * count) / (size + count)
            count += size
        blocks.append((lowest, count))
    heights = [lowest + gap * i for lowest, count in blocks for i in range(count)]
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], 1 - gap * (len(heights) - 1 - i))
    return [max(height, gap * i) for i, height in enumerate(heights)]


def _save(figure: Figure, path: Path) -> list[Path]:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path] if path.suffix in SUFFIXES else [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    for file in files:
        undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(file.suffix)
        picture = io.BytesIO()
        figure.savefig(picture, dpi=300, metadata=undated, format=file.suffix[1:])
        disk.write(file, picture.getvalue())
    return files
