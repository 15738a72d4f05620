"""Arrays in files: a folder of `train.npz`, `test.npz`; or unpacked, where large inputs stay in `train/inputs.npy`."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuition.data import ondisk
from tuition.data.files import check, entries, report_passed, root_of
from tuition.data.ondisk import OnDisk
from tuition.data.pool import Pool, from_tensors
from tuition.errors import UserError

KEYS = ("inputs", "labels", "class_names")
RATIO = 1000
"""Archives that hold more than this multiple of their bytes, and more than memory should, are damage or an attack."""


def splits(folder: Path) -> dict[str, Path]:
    """The file of each split in `folder`, or its folder where it is unpacked; empty if it holds no arrays."""
    held = entries(folder)
    packed = {path.stem: path for path in held if path.suffix.lower() == ".npz"}
    known = packed | {path.name: path for path in held if path.is_dir() and (path / "inputs.npy").exists()}
    if known:
        report_passed(folder, [path for path in held if path not in known.values()], "not arrays")
    return known


def read(path: Path, name: str) -> Pool:
    """The pool in a file or folder: what `from_tensors` takes, under the names of its arguments.

    Raises:
        UserError: a file is damaged, holds no `inputs`, or something that `from_tensors` refuses.
    """
    arrays: dict[str, Any]
    root = root_of(path.parent)
    try:
        if path.is_dir():
            held = [key for key in KEYS if (path / f"{key}.npy").exists()]
            for key in held:
                check(path / f"{key}.npy", root)
            # Mapped, what the header announces must be there.
            arrays = {key: np.array(_mapped(path / f"{key}.npy")) for key in held if key != "inputs"}
            arrays["inputs"] = _array(path / "inputs.npy")
        else:
            check(path, root)
            _check_sizes(path)
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in KEYS if key in file}
                held = file.files
    except UserError:
        raise
    except Exception as error:  # damaged archives raise many things
        raise UserError(f"cannot read {path} ({error}); write it again with numpy.savez or numpy.save.") from error
    if "inputs" not in arrays:
        raise UserError(
            f"{path} holds {', '.join(held) or 'nothing'}, but no array named inputs; write it again with one."
        )
    names = [str(it) for it in arrays["class_names"].tolist()] if "class_names" in arrays else None
    return from_tensors(arrays["inputs"], arrays.get("labels"), class_names=names, name=name)


def _check_sizes(path: Path) -> None:
    """Find out whether the arrays of an archive have the sizes that they announce, before memory is made for them."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > max(ondisk.IN_MEMORY, RATIO * member.compress_size):
                raise UserError(
                    f"{member.filename} of {path} unpacks to {member.file_size:,} bytes from {member.compress_size:,}; "
                    "unpack it into a folder of .npy files if it is meant so."
                )
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read_header(file)
                size = math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and size > member.file_size:
                raise ValueError(f"{member.filename} announces {size:,} bytes, but holds {member.file_size:,}")


def _mapped(path: Path) -> np.memmap:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _array(path: Path) -> Tensor | OnDisk:
    """The array in a file; in memory, if it fits."""
    array = _mapped(path)
    if not array.flags.c_contiguous:
        raise ValueError("its array lies column by column; write it with numpy.ascontiguousarray")
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    return OnDisk.open(path, array.offset, dtype, array.shape)[torch.arange(len(array))]
