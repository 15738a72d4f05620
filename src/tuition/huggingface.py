"""Models of transformers and timm, as students and as teachers: the packages, a model's files, and their errors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuition.errors import UserError, first_line, needs_extra

FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # no pickles
REPOSITORY = re.compile(r"(?P<owner>[A-Za-z0-9][\w.-]*)/[A-Za-z0-9][\w.-]*(@(?P<revision>[\w./-]+))?")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


def transformers(what: str) -> Any:
    """The package `transformers`.

    Raises:
        UserError: it is not installed; the message begins with `what`.
    """
    try:
        import transformers
    except ImportError as error:
        raise needs_extra(f"{what} of transformers", "transformers", error) from error
    return transformers


def timm(what: str) -> Any:
    """The package `timm`.

    Raises:
        UserError: it is not installed, or does not import; the message begins with `what`.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        raise UserError(f"{what} needs timm (pip install 'tuition[timm]'), which does not import: {error}.") from error
    return timm


def folder(place: str) -> Path:
    """The folder of a model: the one named, or the hub's files, as huggingface_hub keeps them.

    Raises:
        UserError: it is neither here nor on the hub.
    """
    return Path(place) if Path(place).is_dir() else snapshot(place, FILES)


def snapshot(place: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The folder in which huggingface_hub keeps these files of a repository; what it does not have is fetched.

    Raises:
        UserError: the hub does not have the repository, or it can neither be reached nor is it kept here.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(place, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # what it is depends on the version of the HTTP client
        raise UserError(
            f"{place} is not a folder, and the hub does not have it ({first_line(error)}); check the name, connect or "
            "log in."
        ) from error


def is_repository(name: object) -> bool:
    """Whether a name is that of a repository of the hub: owner/name, or owner/name@revision.

    A folder here comes first, so that a misspelt one is not asked for elsewhere: what lies in a folder named like the
    owner, and in `runs`, is of the hub only with a revision, as in runs/name@main.
    """
    match = REPOSITORY.fullmatch(name) if isinstance(name, str) else None
    if match is None or os.path.lexists(match[0]):
        return False
    return match["revision"] is not None or not (match["owner"] == "runs" or os.path.lexists(match["owner"]))


def repository(name: str, patterns: Sequence[str]) -> Path:
    """As `snapshot`, of owner/name or owner/name@revision."""
    place, _, revision = name.partition("@")
    return snapshot(place, patterns, revision or None)


@contextmanager
def loading(place: object, directory: Path) -> Iterator[None]:
    """Turn what transformers raises about a model's files into a sentence about `place`.

    Its progress bars and its reports on weights, which a new head or fewer layers leave over, are not shown meanwhile.
    """
    refuse_kernels(read_json(directory / "config.json"), str(place))
    try:
        with _quiet():
            yield
    except UserError:
        raise
    except Exception as error:  # of its files, in as many kinds as transformers has versions
        code = _own_code(directory)
        if code:
            raise UserError(
                f"{place} needs code of its own ({', '.join(code[:3])}), which is never run from a model's folder; "
                "read that code, and load the model by a function of your own."
            ) from error
        raise UserError(
            f"transformers cannot load {place} ({first_line(error)}); fix or complete its files."
        ) from error


def refuse_kernels(config: Any, where: str, inside: bool = False) -> None:
    """Refuse a configuration, however deep, that names a kernel of the hub, as transformers would download and run it.

    Raises:
        UserError: the first of these.
    """
    if isinstance(config, dict):
        for key, value in config.items():
            refuse_kernels(value, where, inside or str(key).endswith("_implementation"))
    elif isinstance(config, list):
        for value in config:
            refuse_kernels(value, where, inside)
    elif inside and isinstance(config, str) and "/" in config:
        raise UserError(
            f"{where} names code of the hub, {config}, which is never run; take it out of the configuration."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def read_json(path: Path) -> Any:
    """The content of a file of settings; {} where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def reads_text(directory: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((directory / name).exists() for name in TOKENIZERS)


def _own_code(directory: Path) -> list[str]:
    """The code that a model's files name under `auto_map`."""
    maps = [read_json(path).get("auto_map", {}) for path in sorted(directory.glob("*config.json"))]
    values = [value for entry in maps if isinstance(entry, dict) for value in entry.values()]
    return sorted({str(name) for value in values for name in (value if isinstance(value, list) else [value]) if name})
