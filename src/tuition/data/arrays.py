"""Arrays in files: a folder of `train.npz`, `test.npz`; or unpacked, where large inputs stay in `train/inputs.npy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuition.data.ondisk import OnDisk
from tuition.data.pool import Pool, from_tensors
from tuition.errors import UserError

KEYS = ("inputs", "labels", "class_names")


def splits(folder: Path) -> dict[str, Path]:
    """The file of each split in `folder`, or its folder where it is unpacked; empty if it holds no arrays."""
    packed = {path.stem: path for path in sorted(folder.glob("*.npz"))}
    return packed | {path.parent.name: path.parent for path in sorted(folder.glob("*/inputs.npy"))}


def read(path: Path, name: str) -> Pool:
    """The pool in a file or folder: what `from_tensors` takes, under the names of its arguments.

    Raises:
        UserError: a file is damaged, holds no `inputs`, or something that `from_tensors` refuses.
    """
    arrays: dict[str, Any]
    try:
        if path.is_dir():
            held = [key for key in KEYS if (path / f"{key}.npy").exists()]
            arrays = {key: np.load(path / f"{key}.npy", allow_pickle=False) for key in held if key != "inputs"}
            arrays["inputs"] = _array(path / "inputs.npy")
        else:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in KEYS if key in file}
                held = file.files
    except Exception as error:  # damaged archives raise many things
        raise UserError(f"cannot read {path} ({error}); write it again with numpy.savez or numpy.save.") from error
    if "inputs" not in arrays:
        raise UserError(
            f"{path} holds {', '.join(held) or 'nothing'}, but no array named inputs; write it again with one."
        )
    names = arrays["class_names"].tolist() if "class_names" in arrays else None
    return from_tensors(arrays["inputs"], arrays.get("labels"), class_names=names, name=name)


def _array(path: Path) -> Tensor | OnDisk:
    """The array in a file; in memory, if it fits."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not array.flags.c_contiguous:
        raise UserError("its array lies column by column; write it with numpy.ascontiguousarray")
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    return OnDisk.open(path, array.offset, dtype, array.shape)[torch.arange(len(array))]
