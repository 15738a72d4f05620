"""Arrays in files: a folder of `train.npz`, `test.npz`, with `inputs` and, if known, `labels` and `class_names`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tuition.data.pool import Pool, from_tensors
from tuition.errors import UserError


def splits(folder: Path) -> dict[str, Path]:
    """The file of each split in `folder`; empty if it holds no arrays."""
    return {path.stem: path for path in sorted(folder.glob("*.npz"))}


def read(path: Path, name: str) -> Pool:
    """The pool in a file: what `from_tensors` takes, under the names of its arguments.

    Raises:
        UserError: the file is damaged, holds no `inputs`, or something that `from_tensors` refuses.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("inputs", "labels", "class_names") if key in file}
            held = ", ".join(file.files)
    except Exception as error:  # damaged archives raise many things
        raise UserError(f"cannot read {path} ({error}); write it again with numpy.savez.") from error
    if "inputs" not in arrays:
        raise UserError(f"{path} holds {held or 'nothing'}, but no array named inputs; write it again with one.")
    names = arrays["class_names"].tolist() if "class_names" in arrays else None
    return from_tensors(arrays["inputs"], arrays.get("labels"), class_names=names, name=name)
