"""What inputs are, and the few operations that a pool needs of them: the one place that tells their kinds apart.

People pass a tensor of uint8 images (n, c, h, w), a tensor of float vectors (n, d), or a list of n texts. Tensors that
do not fit in memory stay in a file (`OnDisk`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tuition.data.ondisk import OnDisk

Inputs = Tensor | list[str]
Kind = Literal["images", "vectors", "texts"]


@dataclass(frozen=True, eq=False)
class TextRows:
    """Texts. `ArrayRows` has the same attributes and methods.

    Attributes:
        kind: what each input is.
        shape: of one input; () of a text.
        nbytes: what they take in memory; 0 of texts, which are never kept elsewhere.
        in_memory: whether they are there.
    """

    values: list[str]

    kind: ClassVar[Kind] = "texts"
    shape: ClassVar[tuple[int, ...]] = ()
    nbytes: ClassVar[int] = 0
    in_memory: ClassVar[bool] = True

    def take(self, index: Tensor) -> list[str]:
        """The rows of an index (m,), in its order."""
        return [self.values[row] for row in index.tolist()]

    def read(self) -> list[str]:
        """All rows, in memory."""
        return self.values

    def contents(self) -> tuple[str, list[bytes]]:
        """What digests cover: a word for kind and shape, and the bytes of each input."""
        return "text", [text.encode() for text in self.values]

    def blank(self, count: int) -> list[str]:
        """`count` inputs without content; of texts the first one, because an empty text is not an input."""
        return self.values[:1] * count


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Images or vectors, in memory or in a file."""

    values: Tensor | OnDisk

    @property
    def kind(self) -> Kind:
        return "images" if self.values.ndim == 4 else "vectors"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def in_memory(self) -> bool:
        return isinstance(self.values, Tensor)

    def take(self, index: Tensor) -> Tensor | OnDisk:
        return self.values[index]

    def read(self) -> Tensor:
        return self.values if isinstance(self.values, Tensor) else self.values.read()

    def contents(self) -> tuple[str, list[Any]]:
        kind = f"{str(self.values.dtype).removeprefix('torch.')}{self.shape}"
        return kind, list(self.read().cpu().contiguous().view(torch.uint8).flatten(1).numpy())

    def blank(self, count: int) -> Tensor:
        return torch.zeros(count, *self.shape, dtype=self.values.dtype)


def rows_of(inputs: Inputs | OnDisk) -> TextRows | ArrayRows:
    return TextRows(inputs) if isinstance(inputs, list) else ArrayRows(inputs)
