"""Decoded pools on disk, so that a data set is decoded once: one memory-mapped safetensors file a split."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from tuition.data.pool import Pool

FORMAT = 1
"""Raised when decoding changes its results, so that what older versions cached is made anew."""

_log = logging.getLogger(__name__)


def folder() -> Path:
    """`TUITION_CACHE`, or `tuition` in the user's cache folder."""
    if os.environ.get("TUITION_CACHE"):
        return Path(os.environ["TUITION_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tuition"


def cached(name: str, options: Mapping[str, object], identity: object, build: Callable[[], Pool]) -> Pool:
    """The pool that `build` makes, from the cache if it holds the one of the same name, options and identity.

    Files are validated by a digest of their content and replaced atomically: processes that build the same pool at the
    same time each write a whole file, and the last one stays. A cache that cannot be written costs a warning only.

    Args:
        name: what the pool is called; with `options` it names the file.
        options: what the pool was asked to be (its split, its columns, its size).
        identity: JSON-able; changes whenever the source changes (its files' sizes and times). The old file is replaced.
        build: reads the source.
    """
    key = hashlib.sha256(json.dumps([FORMAT, name, options], sort_keys=True).encode()).hexdigest()[:16]
    stem = re.sub(r"[^\w.-]+", "_", f"{Path(name).name}-{options.get('split', '')}")
    path = folder() / f"{stem}-{key}.safetensors"
    found = json.dumps(identity)
    if path.exists():
        try:
            pool = _read(path, found)
        except Exception as error:  # whatever a damaged file leads to, the source is still there
            _log.warning("the cached %s is damaged (%s) and is made anew: %s", name, error, path)
        else:
            if pool is not None:
                return pool
    pool = build()
    if not isinstance(pool.inputs, Tensor):
        return pool  # texts are read as fast as they would be from here
    try:
        _write(path, pool, found)
    except Exception as error:  # safetensors wraps a full or read-only disk in an error of its own
        _log.warning(
            "cannot cache %s in %s (%s); set TUITION_CACHE to a folder that can be written.", name, path.parent, error
        )
    return pool


def _digest(pool: Pool, identity: str) -> str:
    digest = hashlib.sha256(json.dumps([pool.name, pool.class_names, identity]).encode())
    for tensor in (pool.inputs, pool.labels):
        if isinstance(tensor, Tensor):
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _write(path: Path, pool: Pool, identity: str) -> None:
    from safetensors.torch import save_file

    metadata = {"name": pool.name, "class_names": json.dumps(pool.class_names), "identity": identity}
    assert isinstance(pool.inputs, Tensor)
    tensors = {"inputs": pool.inputs} | ({} if pool.labels is None else {"labels": pool.labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        save_file(tensors, temporary, metadata | {"digest": _digest(pool, identity)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, identity: str) -> Pool | None:
    """The pool in a cache file, its tensors mapped into memory; None if its source has changed since."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if metadata["identity"] != identity:
            return None
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    names = json.loads(metadata["class_names"])
    pool = Pool(tensors["inputs"], tensors.get("labels"), None if names is None else tuple(names), metadata["name"])
    if _digest(pool, identity) != metadata["digest"]:
        raise ValueError("its content does not match its digest")
    return pool
