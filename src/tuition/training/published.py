"""Runs by name: a folder here, or a repository of the Hugging Face hub that `tuition push` has made."""

from __future__ import annotations

import warnings
from pathlib import Path

from tuition import huggingface
from tuition.errors import Notice, UserError
from tuition.training import files

FILES = (files.RUN, "*.safetensors", "tokenizer.json")  # what a student is made from


def is_run(name: str) -> bool:
    """Whether a name is that of a run, and not of an architecture."""
    return (Path(name) / files.RUN).exists() or huggingface.is_repository(name)


def folder(run: str | Path) -> Path:
    """The folder of a run: the one named, or the one in which huggingface_hub keeps owner/name or owner/name@revision.

    Raises:
        UserError: it is neither here nor on the hub, or the repository holds no run.
    """
    if not huggingface.is_repository(run):
        return Path(run)
    name = str(run)
    directory = huggingface.repository(name, FILES)
    if not (directory / files.RUN).exists():
        raise UserError(f"{name} on the hub holds no run (it has no {files.RUN}); name what `tuition push` has made.")
    place, revision = name.partition("@")[0], directory.name
    if not name.endswith(f"@{revision}"):
        warnings.warn(
            f"{place} is of the hub, at revision {revision}; {place}@{revision} stays the same.", Notice, stacklevel=3
        )
    return directory
