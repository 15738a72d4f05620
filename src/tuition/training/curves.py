"""The picture of one run: loss terms and validation over the epochs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from tuition.data.plotting import matplotlib
from tuition.errors import Notice, first_line
from tuition.training import files

# Okabe and Ito's colours, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NOT_TERMS = {"epoch", "learning_rate", "loss", "validation", "offset", "images", "seconds"}


def draw(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw `history`, one row an epoch, to a PNG file."""
    matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, MaxNLocator

    class Plain(LogFormatter):
        """0.2 in place of 2 x 10^-1, at the same ticks."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    epochs = [row["epoch"] for row in history]
    measured = "validation" in history[0]
    figure = Figure(figsize=(9 if measured else 5, 3.4), layout="constrained", dpi=140)
    axes = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    looks = [{"color": colour, "linestyle": dashes} for dashes in ("-", "--", ":") for colour in COLOURS]
    marker = "o" if len(epochs) == 1 else ""
    for look, name in zip(cycle(looks), [name for name in history[0] if name not in NOT_TERMS], strict=False):
        axes[0].plot(epochs, [row[name] for row in history], label=name, marker=marker, linewidth=1.6, **look)
    axes[0].set(title="loss terms (weighted)", xlabel="epoch")
    if all(row[name] > 0 for row in history for name in row if name not in NOT_TERMS):
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter(Plain())
        axes[0].yaxis.set_minor_formatter(Plain())
    axes[0].legend(frameon=False)
    if measured:
        values = [row["validation"] for row in history]
        best = max(range(len(values)), key=lambda i: (values[i], i))
        axes[1].plot(epochs, values, color=COLOURS[0], linewidth=1.6)
        axes[1].plot(epochs[best], values[best], "o", color=COLOURS[1])
        title = f"validation (%), best {values[best]:.1f} in epoch {epochs[best]:.0f}"
        axes[1].set(title=title, xlabel="epoch")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    files.write(path, picture.getvalue())


def try_to_draw(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """As `draw`; a figure that cannot be drawn is a warning, because the run that it shows is done."""
    try:
        draw(history, path)
    except Exception as error:  # of a drawing library, its fonts or the disk
        warnings.warn(
            f"{path} was not drawn ({first_line(error)}); the run is complete without it.", Notice, stacklevel=2
        )
