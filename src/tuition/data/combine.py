"""Several data sets as one pool, and names for the classes of a pool."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tuition.data import classes
from tuition.data.files import regular
from tuition.data.inputs import Inputs
from tuition.data.labels import in_order
from tuition.data.ondisk import scratch
from tuition.data.pool import Pool
from tuition.data.readable import listed
from tuition.errors import UserError


def joined(pools: Sequence[Pool]) -> Pool:
    """One pool of several, in their order: classes are matched by name, grey images are RGB beside images with colours.

    Raises:
        UserError: inputs of several kinds or sizes, or labels in some of the pools only.
    """
    if len(pools) == 1:
        return pools[0]
    if not pools:
        raise UserError("a list of data sets is empty; name at least one data set.")
    first = pools[0]
    for pool in pools[1:]:
        if pool.kind != first.kind or pool.shape[1:] != first.shape[1:] or len(pool.shape) != len(first.shape):
            raise UserError(f"{_what(first)}, and {_what(pool)}; join data of one kind and size (images with --size).")
        if (pool.labels is None) != (first.labels is None):
            bare, other = (pool, first) if pool.labels is None else (first, pool)
            raise UserError(f"{bare.name} has no labels, and {other.name} has; join data that all have labels or none.")
    name = " + ".join(pool.name for pool in pools)
    names = _class_names(pools)
    labels = None
    if names is not None:
        pools = [pool.in_classes(names, who="the joined data") for pool in pools]
        parts = [pool.labels for pool in pools if pool.labels is not None]
        labels = torch.cat(parts) if parts else None
    return Pool(_inputs(pools), labels, names, name)


def named(pool: Pool, names: str | os.PathLike[str] | Sequence[str]) -> Pool:
    """The pool with these class names: a list, or a file with one a line.

    Where nobody named the classes yet, the names are those of the indices 0, 1, ...; else classes are matched by name.

    Raises:
        UserError: a file that cannot be read, a name twice, or a class without a name.
    """
    chosen = read_names(Path(names)) if isinstance(names, (str, os.PathLike)) else [str(name) for name in names]
    if len(set(chosen)) < len(chosen):
        twice = next(name for name in chosen if chosen.count(name) > 1)
        raise UserError(f"the class name {twice!r} is listed twice; give each class its own name.")
    if pool.class_names is not None and not classes.only_count(pool.class_names):
        return pool.in_classes(chosen, who="the list of class names")
    if len(chosen) < (pool.num_classes or 1):
        raise UserError(
            f"{pool.name} has {pool.num_classes or 1} classes, and {len(chosen)} class names are listed; name each one."
        )
    return replace(pool, class_names=tuple(chosen))


def read_names(path: Path) -> list[str]:
    """Class names from a file, one a line.

    Raises:
        UserError: it cannot be read.
    """
    if not path.exists():
        raise UserError(f"the file of class names {path} was not found; give a file with one name a line.")
    regular(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); write one class name a line, in UTF-8.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _what(pool: Pool) -> str:
    size = f" of {' x '.join(map(str, pool.shape))}" if pool.shape else ""
    return f"{pool.name} holds {pool.kind}{size}"


def _class_names(pools: Sequence[Pool]) -> tuple[str, ...] | None:
    """The classes of all pools, in order.

    Raises:
        UserError: the classes of some are named, and those of others only numbered.
    """
    known = [pool.class_names for pool in pools if pool.class_names is not None]
    if not known:
        return None
    numbered = [names for names in known if classes.only_count(names)]
    if len(numbered) == len(known):
        return classes.numbers(max(map(len, known)))
    if numbered:
        other = next(names for names in known if names not in numbered)
        raise UserError(
            f"some of the data have classes without names, and others have {listed(other)}; load each with class_names."
        )
    return tuple(in_order(dict.fromkeys(name for names in known for name in names)))


def _inputs(pools: Sequence[Pool]) -> Inputs:
    if pools[0].kind == "texts":
        return [text for pool in pools for text in pool.texts]
    shape = max((pool.shape for pool in pools), key=lambda shape: shape[0])  # RGB rather than grey
    rows = scratch((sum(map(len, pools)), *shape), pools[0].asked_tensor(slice(1)).dtype)
    done = 0
    for pool in pools:
        for start in range(0, len(pool), 1024):
            part = pool.asked_tensor(slice(start, start + 1024))
            rows[done : done + len(part)] = part
            done += len(part)
    return rows
