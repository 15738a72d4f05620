"""A pool: raw inputs that could be asked about, with labels where they are known, each named by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tuition.data import classes
from tuition.data.augment import Crop
from tuition.data.inputs import Inputs, Kind, rows_of
from tuition.data.ondisk import OnDisk
from tuition.data.readable import Readable, counted, listed
from tuition.data.sequences import as_inputs, as_labels
from tuition.errors import UserError

DIGEST_BYTES = 16
BLOCK = 1024  # rows that are looked at in one go
MAX_CLASSES = 1_000_000  # a higher label is an identifier or damage, not a class


@dataclass(frozen=True, eq=False, repr=False)
class Pool(Readable):
    """Raw inputs, their labels and, optionally, the one view of each that a teacher is asked about.

    Attributes:
        inputs: uint8 images (n, c, h, w), float vectors (n, d), or a list of n strings; `OnDisk` where they stay in a
            file because they take more than 512 MiB.
        labels: int64 (n,) class indices, or None.
        class_names: one name a class, or None. Their number fixes `num_classes`.
        name: where the inputs come from, for people.
        crop: how a view is cut from an image; None leaves images whole.
        views: int64 (n, 3) top, left, flip of each image's view under `crop`; None is the centred view.
        augment: the random crops and flips for training students on this data; None for none.
    """

    inputs: Inputs | OnDisk
    labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    name: str = "pool"
    crop: Crop | None = None
    views: Tensor | None = None
    augment: Crop | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def lines(self) -> list[str]:
        shape = f" of {' x '.join(map(str, self.shape))}" if self.shape else ""
        first = f"Pool {self.name!r}: {counted(len(self), self.kind.removesuffix('s'))}{shape}"
        return [first + ("" if self.in_memory else ", on disk"), self.known_classes()]

    def known_classes(self) -> str:
        """What is known of the classes, for people."""
        if self.class_names is None and self.labels is None:
            return "no labels"
        names = self.class_names if self.class_names is not None else classes.numbers(self.num_classes or 0)
        return f"{'' if self.labels is not None else 'no labels; '}{len(names):,} classes: {listed(names)}"

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray | Tensor) -> Pool:
        """The rows named, in that order (a boolean mask works too), as a pool of their own."""
        index = row_index(len(self), rows)
        if index.ndim != 1:
            raise UserError("a pool is indexed by a slice or a list of rows; write pool[i : i + 1] for a single input.")
        return replace(
            self,
            inputs=rows_of(self.inputs).take(index),
            labels=None if self.labels is None else self.labels[index],
            views=None if self.views is None else self.views[index],
        )

    @property
    def kind(self) -> Kind:
        """What an input is: one of "images", "vectors" and "texts"."""
        return rows_of(self.inputs).kind

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: (c, h, w) of an image, (d,) of a vector, () of a text."""
        return rows_of(self.inputs).shape

    @property
    def nbytes(self) -> int:
        """What the inputs take in memory; 0 of texts."""
        return rows_of(self.inputs).nbytes

    @property
    def in_memory(self) -> bool:
        """Whether the inputs are held in memory, and not in a file."""
        return rows_of(self.inputs).in_memory

    @property
    def num_classes(self) -> int | None:
        """How many `class_names` there are, else the highest label plus one; None without labels."""
        if self.class_names is not None:
            return len(self.class_names)
        return None if self.labels is None or len(self) == 0 else int(self.labels.max()) + 1

    @property
    def without_labels(self) -> Pool:
        return replace(self, labels=None)

    def in_classes(self, names: Sequence[str], who: str = "the model") -> Pool:
        """The same inputs with labels that count in other class names, matched by name (see `tuition.data.classes`).

        `who` knows these classes, for the message.

        Raises:
            UserError: labels in use that have no such name; without names to compare, another number of classes.
        """
        named = tuple(names)
        if self.labels is None:
            return replace(self, class_names=named)
        own = self.class_names if self.class_names is not None else classes.numbers(self.num_classes or 0)
        places = classes.relabel(own, named, self.labels.unique().tolist(), pool=self.name, who=who)
        labels = self.labels if places is None else torch.tensor(places)[self.labels]
        return replace(self, labels=labels, class_names=named)

    # -- what a teacher is asked about ---------------------------------------------------------------------------------

    def view(self, crop: Crop | None, *, seed: int | None = None) -> Pool:
        """The same pool, asked about through `crop`: one random view of each image by `seed`, or the centred one."""
        if crop is None:
            return replace(self, crop=None, views=None)
        if self.kind != "images":
            raise UserError("only pools of images have views; leave out the crop.")
        _, height, width = self.shape
        views = None
        if seed is not None:
            views = crop.draw(len(self), (height, width), torch.Generator().manual_seed(seed))
        return replace(self, crop=crop, views=views)

    def asked(self, rows: slice | Sequence[int] | Tensor | None = None) -> Inputs:
        """Raw inputs of `rows` (None is all) in memory, as the teacher sees them: through their views."""
        part = self if rows is None else self[rows]
        inputs = rows_of(part.inputs).read()
        if part.crop is None:
            return inputs
        _, height, width = part.shape
        views = part.views if part.views is not None else part.crop.centre(len(part), (height, width))
        return part.crop(cast("Tensor", inputs), views)

    def asked_tensor(self, rows: slice | Sequence[int] | Tensor | None = None) -> Tensor:
        """The same, of images or vectors.

        Raises:
            UserError: the inputs are texts.
        """
        if self.kind == "texts":
            raise UserError(f"{self.name} holds texts, and images or vectors are needed; encode the texts first.")
        return cast("Tensor", self.asked(rows))

    @property
    def texts(self) -> list[str]:
        """The inputs of a pool of texts.

        Raises:
            UserError: the inputs are images or vectors.
        """
        if self.kind != "texts":
            raise UserError(f"{self.name} holds {self.kind}, and texts are needed; give texts.")
        return cast("list[str]", self.inputs)

    def blank(self, count: int) -> Inputs:
        """`count` inputs as asked without content; of texts, the first one."""
        return rows_of(self.asked(slice(1))).blank(count)

    def blocks(self) -> Iterator[Inputs]:
        """What is asked about, `BLOCK` rows at a time."""
        return (self.asked(slice(start, start + BLOCK)) for start in range(0, max(1, len(self)), BLOCK))

    def asked_views(self, frame: Crop) -> Tensor:
        """The views (n, 3) that are asked about, in the padded frame of another crop of the same output size."""
        crop = self.crop if self.crop is not None else Crop(padding=0)
        _, height, width = self.shape
        views = self.views if self.views is not None else crop.centre(len(self), (height, width))
        shift = frame.padding - crop.padding
        return views + torch.tensor([shift, shift, 0])

    @cached_property
    def digests(self) -> list[bytes]:
        """A 16-byte digest of the content of each input as asked: equal inputs, equal digests, wherever they stand."""
        digests: list[bytes] = []
        for inputs in self.blocks():
            kind, contents = rows_of(inputs).contents()
            person = hashlib.blake2b(kind.encode(), digest_size=16).digest()
            digests += [hashlib.blake2b(it, digest_size=DIGEST_BYTES, person=person).digest() for it in contents]
        return digests

    # -- drawing ---------------------------------------------------------------------------------------------------

    def sample(self, count: int, *, seed: int, stratified: bool = False) -> Pool:
        """`count` rows drawn without replacement by `seed`; `stratified` keeps the classes' shares to within one row.

        For one seed, samples are nested: the first 100 rows of `sample(200)` are `sample(100)` (not when stratified).
        """
        if not 0 < count <= len(self):
            raise UserError(
                f"cannot draw {count} inputs from the {len(self)} of {self.name}; ask for 1 to {len(self)}."
            )
        generator = torch.Generator().manual_seed(seed)
        if not stratified:
            return self[torch.randperm(len(self), generator=generator)[:count]]
        return self[self._stratified(count, generator)]

    def split(self, count: int, *, seed: int, stratified: bool = False) -> tuple[Pool, Pool]:
        """Two disjoint pools drawn by `seed`: `count` rows, and all the others."""
        if not 0 < count < len(self):
            raise UserError(
                f"cannot split {count} inputs off the {len(self)} of {self.name}; choose 1 to {len(self) - 1}."
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)
        if stratified:
            chosen = self._stratified(count, generator)
            rest = torch.ones(len(self), dtype=torch.bool)
            rest[chosen] = False
            return self[chosen], self[order[rest[order]]]
        return self[order[:count]], self[order[count:]]

    def _stratified(self, count: int, generator: torch.Generator) -> Tensor:
        if self.labels is None:
            raise UserError("a stratified draw needs labels; this pool has none.")
        order = torch.randperm(len(self), generator=generator)
        classes, sizes = self.labels.unique(return_counts=True)
        exact = sizes.double() * count / len(self)
        shares = exact.floor().long()
        # What rounding left over goes to the largest remainders; ties fall by the seed.
        tie = torch.rand(len(classes), generator=generator, dtype=torch.float64) * 1e-9
        most = (exact - shares + tie).argsort(descending=True)[: count - int(shares.sum())]
        shares[most] += 1
        picked = [order[self.labels[order] == c][:k] for c, k in zip(classes, shares.tolist(), strict=True)]
        rows = torch.cat(picked)
        return rows[torch.randperm(len(rows), generator=generator)]


def from_tensors(
    inputs: Any,
    labels: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "tensors",
    augment: Crop | None = None,
) -> Pool:
    """A pool from memory.

    Args:
        inputs: uint8 images (n, c, h, w) (other integers too, if they are bytes), float vectors (n, d), n strings, or n
            pictures of Pillow: as a tensor, array, list, column of `datasets` or series of pandas.
        labels: n class indices from 0, of any integer type, or None.
        class_names: one name a class; the labels' numbers by default.
        name: where the inputs come from, for people.
        augment: how training should draw its views of images; None for none.

    Raises:
        UserError: no inputs, an unsupported shape or type, NaN, or labels that do not fit.
    """
    inputs = _checked_inputs(inputs)
    if labels is not None:
        labels = _checked_labels(labels, len(inputs), class_names, name)
        class_names = class_names if class_names is not None else [str(c) for c in range(int(labels.max()) + 1)]
    return Pool(inputs, labels, None if class_names is None else tuple(class_names), name, augment=augment)


def row_index(count: int, rows: slice | Sequence[int] | np.ndarray | Tensor) -> Tensor:
    """Rows named by a slice, a list or a boolean mask, as indices."""
    if isinstance(rows, slice):
        return torch.from_numpy(np.arange(*rows.indices(count)))
    rows = torch.as_tensor(rows)
    if rows.dtype == torch.bool:
        return torch.arange(count)[rows]
    if rows.numel() == 0 or not rows.is_floating_point():  # an empty list would be floating point
        rows = rows.long()
    torch.empty(1).expand(count)[rows]  # refuses other numbers than rows
    return rows.where(rows >= 0, rows + count)


def _checked_inputs(inputs: Any) -> Inputs | OnDisk:
    inputs = as_inputs(inputs)
    if len(inputs) == 0:
        raise UserError("the pool holds no inputs; give at least one.")
    if isinstance(inputs, list):
        _check_texts(inputs)
        return inputs
    shape = tuple(inputs.shape)
    if 0 in shape:
        raise UserError(f"inputs of shape {shape} hold no values; give images or vectors that do.")
    if inputs.ndim == 4:
        if inputs.dtype != torch.uint8:
            inputs = _bytes(inputs)
        if min(shape[2:]) < 8 and shape[3] <= 4 <= min(shape[1:3]):
            raise UserError(f"images are (n, c, h, w), but {shape} looks like (n, h, w, c); move the channels first.")
        if min(shape[2:]) < 8:
            raise UserError(f"images are at least 8 pixels high and wide, not {shape[2]}x{shape[3]}; enlarge them.")
    elif inputs.ndim == 2:
        if not inputs.dtype.is_floating_point:
            raise UserError(f"vectors are floating point (n, d), not {inputs.dtype}; convert them first.")
        if not all(bool(part.isfinite().all()) for part in inputs.split(BLOCK)):
            raise UserError("the inputs hold NaN or infinity; clean them before asking a teacher about them.")
    else:
        raise UserError(f"inputs are images (n, c, h, w) or vectors (n, d), not of shape {shape}; reshape them.")
    return inputs


def _check_texts(texts: list[str]) -> None:
    for row, text in enumerate(texts):
        if not text.strip():
            raise UserError(f"the text in row {row} is empty; leave it out.")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"the text in row {row} holds half a character (a lone surrogate); write the character again in full."
            ) from None


def _bytes(images: Tensor | OnDisk) -> Tensor:
    """Images of another integer type as uint8, where their values are bytes."""
    expected = f"images are uint8 (n, c, h, w) with values 0 to 255, not {images.dtype}"
    if isinstance(images, OnDisk) or images.dtype == torch.bool or images.is_floating_point() or images.is_complex():
        raise UserError(f"{expected}; convert them first.")
    numbers = images.to(torch.int64)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > 255:
        raise UserError(f"{expected} from {low} to {high}; scale them to bytes first.")
    return numbers.to(torch.uint8)


def _checked_labels(labels: Any, count: int, class_names: Sequence[str] | None, name: str) -> Tensor:
    labels = as_labels(labels)
    integers = labels.dtype != torch.bool and not labels.is_floating_point() and not labels.is_complex()
    if labels.ndim != 1 or not integers:
        raise UserError(f"labels are n class indices, not {labels.dtype} of shape {tuple(labels.shape)}; convert them.")
    if len(labels) != count:
        raise UserError(f"there are {count} inputs but {len(labels)} labels; give one label an input.")
    labels = labels.to(torch.int64)  # of unsigned types torch knows no smallest
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= (MAX_CLASSES if class_names is None else len(class_names)):
        bound = f"below {MAX_CLASSES:,}" if class_names is None else f"to {len(class_names) - 1}"
        bound = "up" if class_names is None and high < MAX_CLASSES else bound
        raise UserError(
            f"the labels of {name} run from {low} to {high}, but class indices run from 0 {bound}; renumber them."
        )
    return labels
