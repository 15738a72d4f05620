"""Inputs and labels in memory, as people have them: lists, tensors, arrays, columns of `datasets`, series of pandas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuition.data.images import as_array, eight_bits
from tuition.data.ondisk import OnDisk
from tuition.errors import UserError, first_line


def as_inputs(inputs: Any) -> Tensor | OnDisk | list[str]:
    """A list of texts, or one tensor; pictures of Pillow become uint8 (n, c, h, w), grey if all of them are.

    Raises:
        UserError: inputs of several kinds or shapes.
    """
    from PIL import Image

    if isinstance(inputs, OnDisk):
        return inputs
    inputs = _plain(inputs)
    if not isinstance(inputs, list):
        return inputs
    if all(isinstance(text, str) for text in inputs):
        return [str(text) for text in inputs]
    if all(isinstance(picture, Image.Image) for picture in inputs):
        return _pictures(inputs)
    try:
        return _stacked(inputs)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"inputs are images, vectors or strings, all of one shape ({first_line(error)}); convert them first."
        ) from error


def as_labels(labels: Any) -> Tensor:
    """One tensor.

    Raises:
        UserError: labels that are not numbers.
    """
    try:
        labels = _plain(labels)
        return _stacked(labels) if isinstance(labels, list) else labels
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError("labels are n class indices, not names or lists; convert them first.") from error


def _plain(values: Any) -> Tensor | list[Any]:
    """A tensor of what holds numbers in one block, a list of anything else that can be gone through."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, np.ndarray):
        return _tensor(values) if values.dtype.kind in "biufc" else values.tolist()
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__len__"):
        raise UserError(f"a pool is made of sequences, not of {type(values).__name__}; give a list, array or tensor.")
    return list(values)


def _stacked(values: Sequence[Any]) -> Tensor:
    if values and isinstance(values[0], Tensor):
        return torch.stack(list(values))
    if not values:
        return torch.empty(0)
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"they hold {type(values[0]).__name__} and cannot make one array of numbers")
    # Plain numbers of Python make the types that they make in a tensor.
    return torch.as_tensor(values) if isinstance(values[0], (bool, int, float)) else _tensor(array)


def _tensor(array: np.ndarray) -> Tensor:
    """The same numbers; torch takes neither another order of bytes nor steps backwards."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    writable = array.flags.writeable and all(step >= 0 for step in array.strides)
    return torch.from_numpy(array if writable else array.copy())


def _pictures(pictures: Sequence[Any]) -> Tensor:
    arrays = [as_array(eight_bits(f"in row {row}", picture)) for row, picture in enumerate(pictures)]
    sizes = {array.shape[1:] for array in arrays}
    if len(sizes) > 1:
        row = next(row for row, array in enumerate(arrays) if array.shape[1:] != arrays[0].shape[1:])
        here, first = ("x".join(map(str, arrays[i].shape[1:])) for i in (row, 0))
        raise UserError(f"the images differ in size ({first}, but that in row {row} is {here}); resize them first.")
    channels = max(array.shape[0] for array in arrays)
    return torch.from_numpy(np.stack([np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays]))
