"""Decoded pools on disk, so that a data set is decoded once: one safetensors file a split.

The file is mapped into memory; what does not fit there is read row by row.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from tuition import disk
from tuition.data import ondisk
from tuition.data.ondisk import OnDisk
from tuition.data.pool import BLOCK, Pool

FORMAT = 3
"""Raised when decoding changes its results, so that what older versions cached is rebuilt."""

TYPES = {torch.uint8: "U8", torch.int64: "I64"}

_log = logging.getLogger(__name__)


def cached(name: str, options: Mapping[str, object], identity: object, build: Callable[[], Pool]) -> Pool:
    """The pool that `build` makes, from the cache if it holds the one of the same name, options and identity.

    Files are validated by a digest of their content and replaced atomically: processes that build the same pool at the
    same time each write a file of their own, and the last one stays. A cache that cannot be written costs a warning.

    Args:
        name: what the pool is called; with `options` it names the file.
        options: what the pool was asked to be (its split, its columns, its size).
        identity: JSON-able; changes whenever the source changes (see `files.state`). The old file is replaced.
        build: reads the source.
    """
    key = hashlib.sha256(json.dumps([FORMAT, name, options], sort_keys=True).encode()).hexdigest()[:16]
    stem = re.sub(r"[^\w.-]+", "_", f"{Path(name).name}-{options.get('split', '')}")
    path = ondisk.cache_folder() / f"{stem}-{key}.safetensors"
    source = json.dumps(identity)
    if path.is_file():
        try:
            pool = _read(path, source)
        except Exception as error:  # whatever a damaged file leads to, the source is still there
            _log.warning("the cached %s is damaged (%s) and is rebuilt: %s", name, error, path)
        else:
            if pool is not None:
                return pool
    pool = build()
    if pool.kind == "texts":
        return pool  # texts are read as fast as they would be from here
    try:
        _write(path, pool, source)
    except Exception as error:  # safetensors wraps a full or read-only disk in an error of its own
        _log.warning(
            "cannot cache %s in %s (%s); set TUITION_CACHE to a folder that can be written.", name, path.parent, error
        )
        return pool
    return pool if pool.nbytes <= ondisk.IN_MEMORY else _read(path, source) or pool


def _digest(pool: Pool, identity: str) -> str:
    digest = hashlib.sha256(json.dumps([pool.name, pool.class_names, identity]).encode())
    for tensor in _tensors(pool).values():
        for part in tensor.split(BLOCK):
            digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()


def _tensors(pool: Pool) -> dict[str, Tensor]:
    """What a file holds, the larger type first, because it must be aligned; inputs on disk are used like a tensor."""
    inputs = cast("Tensor", pool.inputs)
    return {"inputs": inputs} if pool.labels is None else {"labels": pool.labels, "inputs": inputs}


def _write(path: Path, pool: Pool, identity: str) -> None:
    # Written here because safetensors would copy everything first.
    about = {"name": pool.name, "class_names": json.dumps(pool.class_names), "identity": identity}
    digest = _digest(pool, identity)
    header: dict[str, object] = {"__metadata__": about | {"digest": digest}}
    tensors, end = _tensors(pool), 0
    for name, tensor in tensors.items():
        place = [end, end := end + tensor.nbytes]
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path = disk.replaceable(path)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors.values():
                for part in tensor.split(BLOCK):
                    file.write(part.contiguous().numpy().data)
        # Of equal contents the time is equal too: who reads from the file that this one replaces can go on.
        os.utime(temporary, ns=(time.time_ns(), int(digest[:12], 16)))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, identity: str) -> Pool | None:
    """The pool in a cache file; None if its source has changed since."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if metadata["identity"] != identity:
            return None
        inputs = _on_disk(path)
        if inputs.nbytes <= ondisk.IN_MEMORY:
            inputs = file.get_tensor("inputs")
        labels = file.get_tensor("labels") if "labels" in file.keys() else None  # noqa: SIM118
    names = json.loads(metadata["class_names"])
    pool = Pool(inputs, labels, None if names is None else tuple(names), metadata["name"])
    if _digest(pool, identity) != metadata["digest"]:
        raise ValueError("its content does not match its digest")
    return pool


def _on_disk(path: Path) -> Tensor | OnDisk:
    """The inputs in a cache file, which safetensors could only map."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > os.fstat(file.fileno()).st_size:
            raise ValueError("its header is longer than the file")
        about = json.loads(file.read(size))["inputs"]
    return OnDisk.open(path, 8 + size + about["data_offsets"][0], torch.uint8, about["shape"])
