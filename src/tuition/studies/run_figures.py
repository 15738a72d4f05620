"""The figures of one run, in the looks of those of a study: training, rounds, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from tuition.studies.figures import BLUE, INK, MUTED, PAPER, VERMILLION, _figure, _save
from tuition.training.calibration import Bin
from tuition.training.curves import COLOURS, NOT_TERMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 5  # predictions of a bin that is drawn


def losses(history: Sequence[Mapping[str, float]], path: Path) -> list[Path]:
    """The weighted terms of the loss against epochs.

    Args:
        history: one row an epoch, as in metrics.csv.
        path: without a suffix; a PNG and an SVG are written.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    epochs, terms = [row["epoch"] for row in history], [name for name in history[0] if name not in NOT_TERMS]
    with _figure(None) as (figure, axes):
        # Black is the page's ink, which is light in the dark.
        inks = [INK if colour == "#000000" else colour for colour in COLOURS]
        looks = cycle([(ink, dashes) for dashes in ("-", "--") for ink in inks])
        for name, (colour, dashes) in zip(terms, looks, strict=False):
            values = [row[name] for row in history]
            axes.plot(epochs, values, color=colour.lower(), linestyle=dashes, label=name, linewidth=1.4)
        if all(row[name] > 0 for row in history for name in terms):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="epoch", ylabel="loss terms (weighted)")
        axes.legend(frameon=False, fontsize=7.5)
        return _saved(figure, path)


def validation(history: Sequence[Mapping[str, float]], best: int, path: Path) -> list[Path]:
    """The validation figure against epochs, with the epoch that was kept."""
    epochs, values = [row["epoch"] for row in history], [row["validation"] for row in history]
    with _figure(None) as (figure, axes):
        axes.plot(epochs, values, color=BLUE, linewidth=1.6, marker="o" if len(epochs) == 1 else "")
        kept = epochs.index(best) if best in epochs else len(epochs) - 1
        mark = {"color": VERMILLION, "markeredgecolor": PAPER, "zorder": 4, "clip_on": False}
        axes.plot(epochs[kept], values[kept], "o", label=f"{values[kept]:.1f} %, kept", **mark)
        above = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}  # where no curve is
        axes.legend(frameon=False, fontsize=7.5, **above)
        axes.set(xlabel="epoch", ylabel="validation (%)")
        return _saved(figure, path)


def rounds(calls: Sequence[int], values: Sequence[float], path: Path) -> list[Path]:
    """The validation figure after each round against the calls up to it."""
    with _figure(None) as (figure, axes):
        axes.plot(calls, values, color=BLUE, linewidth=1.6, marker="o", markersize=4.5, clip_on=False)
        axes.set(xlabel="inputs asked about", ylabel="validation (%)")
        if len(calls) > 2 and calls[0] > 0:
            axes.set_xscale("log", base=2)
        axes.set_xticks(calls, [f"{count:,}" for count in calls])
        axes.minorticks_off()
        return _saved(figure, path)


def reliability(before: Sequence[Bin], after: Sequence[Bin] | None, path: Path) -> list[Path]:
    """Accuracy against confidence by bins; the larger a mark, the more predictions. On the diagonal both are equal.

    Bins of fewer than FEWEST predictions are left out: where they lie is chance.
    """
    with _figure(None) as (figure, axes):
        axes.grid(axis="x")
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for bins, colour, name in ((before, BLUE, "as trained"), (after or (), VERMILLION, "with a temperature")):
            if shown := [each for each in bins if each.size >= FEWEST]:
                confidence, accuracy, counts = zip(*shown, strict=True)
                x, y = [100 * value for value in confidence], [100 * value for value in accuracy]
                axes.plot(x, y, color=colour, linewidth=1, alpha=0.4)
                sizes = [10 + 80 * count / sum(counts) for count in counts]
                axes.scatter(x, y, s=sizes, color=colour, label=name, zorder=3, edgecolors=PAPER, linewidths=0.5)
        axes.set(xlabel="confidence (%)", ylabel="of which right (%)", xlim=(0, 100), ylim=(0, 100))
        if axes.collections:
            legend = axes.legend(frameon=False, fontsize=7.5, loc="lower right")
            for handle in legend.legend_handles:
                handle.set_sizes([25])
        return _saved(figure, path)


def _saved(figure: Figure, path: Path) -> list[Path]:
    return [file for suffix in (".png", ".svg") for file in _save(figure, path.with_name(path.name + suffix))]
