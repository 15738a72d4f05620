"""A contact sheet: what a person looks at before trusting a data set."""

from __future__ import annotations

import io
import os
import textwrap
from pathlib import Path

from tuition import disk
from tuition.data.plotting import matplotlib
from tuition.data.pool import Pool
from tuition.errors import UserError


def contact_sheet(pool: Pool, path: str | os.PathLike[str], *, count: int = 64, seed: int = 0) -> Path:
    """Draw `count` images of the pool, chosen by `seed`, in the order of their classes, with the classes' names.

    Args:
        pool: images; fewer than `count` are all drawn.
        path: the picture to write; its suffix (.png, .pdf, .svg) says in what format.

    Returns:
        the path written.

    Raises:
        UserError: the pool holds no images, or the picture cannot be written; another file is not replaced.
    """
    if pool.kind != "images":
        raise UserError(f"a contact sheet shows images, but {pool.name} holds none; choose another pool.")
    matplotlib()
    from matplotlib.figure import Figure

    part = pool.sample(min(count, len(pool)), seed=seed)
    if part.labels is not None:
        part = part[part.labels.argsort(stable=True)]
    images = part.view(None).asked_tensor()
    names = [""] * len(part)
    if part.labels is not None and part.class_names is not None:
        names = [_short(part.class_names[label]) for label in part.labels.tolist()]
    channels, height, width = part.shape
    columns = min(len(part), 8)
    rows = -(-len(part) // columns)
    # In inches: images 1.15 wide and 0.1 apart, lines of text 0.11 high, a margin of 0.1 and a title of 0.4.
    tall = 1.15 * height / width
    step = tall + 0.1 + 0.11 * max((name.count("\n") + 1) * bool(name) for name in names)
    wide, high = max(0.1 + 1.25 * columns, 5), 0.5 + step * rows
    figure = Figure(figsize=(wide, high), dpi=120)
    figure.text(0.5, 1 - 0.25 / high, _title(pool), fontsize=11, ha="center", va="center")
    for row, (image, name) in enumerate(zip(images.permute(0, 2, 3, 1).numpy(), names, strict=True)):
        left, top = 0.1 + 1.25 * (row % columns), high - 0.4 - step * (row // columns)
        axes = figure.add_axes((left / wide, (top - tall) / high, 1.15 / wide, tall / high))
        axes.imshow(image if channels == 3 else image[:, :, 0], cmap="gray", vmin=0, vmax=255)
        axes.axis("off")
        axes.set_title(name, y=-0.03, va="top", fontsize=6.5, color="0.25", linespacing=1.1, pad=0)
    path, picture = Path(path), io.BytesIO()
    try:
        figure.savefig(picture, format=path.suffix.lstrip(".") or None)
    except (OSError, ValueError) as error:  # no such place, or no such format
        raise UserError(f"cannot write the contact sheet {path} ({error}); choose another place or suffix.") from error
    disk.write_new(path, picture.getvalue())
    return path


def _title(pool: Pool) -> str:
    channels, height, width = pool.shape
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    classes = "no labels" if pool.labels is None else f"{pool.num_classes} classes"
    return f"{pool.name}: {len(pool):,} images, {width}x{height} {colour}, {classes}"


def _short(name: str) -> str:
    return "\n".join(textwrap.wrap(name.replace("_", " "), 20, max_lines=3, placeholder="…"))
