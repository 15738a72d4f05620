"""The picture of a run that asked in rounds: validation against inputs asked about."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuition.data.plotting import matplotlib
from tuition.errors import Notice, first_line
from tuition.training import files
from tuition.training.curves import COLOURS

NAME = "rounds.png"


def draw(table: Sequence[Mapping[str, Any]], until: float | None, path: Path) -> None:
    """Draw the lines of rounds.csv to a PNG file; the bars go down to the lower bound of the validation figure."""
    matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained", dpi=140)
    axes = figure.subplots()
    calls = [row["calls"] for row in table]
    validation = [row["validation"] for row in table]
    inputs = table[-1]["validation_inputs"]
    label, bars = f"validation ({inputs:,} inputs)", None
    if table[-1]["at_least"] is not None:
        below = [row["validation"] - row["at_least"] for row in table]
        label, bars = f"{label}, 95 % lower bound", [below, [0.0] * len(below)]
    look: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.6, "capsize": 2.5, "elinewidth": 1}
    axes.errorbar(calls, validation, yerr=bars, color=COLOURS[0], label=label, **look)
    if table[-1]["accuracy"] is not None:
        accuracy = [row["accuracy"] for row in table]
        axes.plot(calls, accuracy, "s--", markersize=4, color=COLOURS[1], linewidth=1.2, label="test")
    if until is not None:
        axes.axhline(until, color=COLOURS[2], linewidth=1.2, linestyle=":", label=f"target {until:g} %")
    axes.set_xscale("log", base=2)
    axes.set_xticks(calls, [f"{count:,}" for count in calls], minor=False)
    axes.set(xlabel="inputs asked about", ylabel="%")
    axes.legend(frameon=False, loc="lower right", fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    files.write(path, picture.getvalue())


def try_to_draw(table: Sequence[Mapping[str, Any]], until: float | None, path: Path) -> None:
    """As `draw`; a figure that cannot be drawn is a warning, because the rounds that it shows are done."""
    try:
        draw(table, until, path)
    except Exception as error:  # of a drawing library, its fonts or the disk
        warnings.warn(
            f"{path} was not drawn ({first_line(error)}); the run is complete without it.", Notice, stacklevel=2
        )
