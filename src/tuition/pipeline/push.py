"""A finished run as a repository of the Hugging Face hub: chosen files alone, without what strangers may not read."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuition import escape, factories, huggingface
from tuition.errors import UserError, first_line
from tuition.pipeline.settings_file import CONFIG, load_yaml
from tuition.training import Student, files, load
from tuition.training.model_card import CARD

# What is sent beside the weights. Checkpoints, stores, logs and refused inputs are not.
ALLOWED = (CARD, files.METRICS, files.CURVES, "rounds.csv", "rounds.png", "tokenizer.json")
SECRET_NAMES = re.compile(r"key|token|secret|password", re.IGNORECASE)  # of variables of the environment
LEAST_SECRET = 8  # characters of a value that is looked for


@dataclass(frozen=True)
class Pushed:
    """A commit on the hub: its address, its full hash, the files in it, and whether the student needs code of yours."""

    url: str
    revision: str
    files: list[str]
    own_code: bool


def push(run: Path, name: str, *, private: bool = False, revision: str | None = None) -> Pushed:
    """Send a finished run to the repository owner/name, in one commit; it is made if it is not there.

    Args:
        private: make the repository private. One that is there must be so already.
        revision: the branch, which is made if it is not there; by default the main one.

    Raises:
        UserError: not a finished run, not such a name, files that would tell of this machine, or a hub that refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if "@" in name or not re.fullmatch(huggingface.REPOSITORY, name):
        raise UserError(f"{name!r} is not the name of a repository; give OWNER/NAME.")
    content, own_code = contents(run, name)
    api = HfApi(library_name="tuition")
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise UserError(f"{name} is there already, and public; make it private first, or choose another name.")
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(path, data) for path, data in content.items()]
        commit = api.create_commit(name, operations, commit_message="Add a run of tuition", revision=revision)
    except UserError:
        raise
    except Exception as error:  # what it is depends on the version of the HTTP client
        raise UserError(
            f"{name} cannot be pushed ({first_line(error)}); log in with `hf auth login`, and check the name."
        ) from error
    return Pushed(commit.commit_url, commit.oid, sorted(content), own_code)


def contents(run: Path, name: str) -> tuple[dict[str, bytes], bool]:
    """The files to send, by name, and whether the student needs code that is not in them.

    Raises:
        UserError: not a finished run; or a file that names the home folder or holds a secret of the environment.
    """
    record = files.read_run(run)
    if record["status"] != "done":
        raise UserError(f"the run in {run} is not finished; give its command again to finish it.")
    student = None if needs_code(record) else load(run)
    weights = record["student"]["weights"]
    content = {path: (run / path).read_bytes() for path in (*ALLOWED, weights) if (run / path).is_file()}
    if CARD in content:
        content[CARD] = content[CARD].replace(b"OWNER/NAME", name.encode())
    content[files.RUN] = (json.dumps(_public_record(record), indent=2, allow_nan=False) + "\n").encode()
    if (run / CONFIG).is_file():
        content[CONFIG] = _public_config(run / CONFIG)
    for path, data in content.items():
        if path != weights:
            _check_clean(run / path, data)
    if student is not None:
        _check_loads(content, student)
    return content, student is None


def needs_code(record: dict[str, Any]) -> bool:
    """Whether the student's model or preprocessing is made by code of the user's own."""
    card = record["student"]
    return card["model"] is None or factories.is_factory(card["model"]["name"]) or bool(card.get("own_preprocess"))


def _public_record(record: dict[str, Any]) -> dict[str, Any]:
    """As strangers may read it. Of the student only the recipe can name a place; class names stay as they are."""
    card = record["student"]
    return escape.public(record) | {"student": card | {"model": escape.public(card["model"])}}


def _public_config(path: Path) -> bytes:
    import yaml

    values = load_yaml(path.read_text(encoding="utf-8"))
    return yaml.safe_dump(escape.public(values), sort_keys=False, allow_unicode=True).encode()


def _check_clean(path: Path, data: bytes) -> None:
    """Refuse a file that holds the path of the home folder, or the value of a variable that looks secret."""
    home = os.path.expanduser("~")
    if len(home) > 1 and home.encode() in data:
        raise UserError(f"{path} names your home folder; take that out of it first.")
    for variable, value in os.environ.items():
        if SECRET_NAMES.search(variable) and len(value) >= LEAST_SECRET and value.encode() in data:
            raise UserError(f"{path} holds the value of {variable}; take that out of it first.")


def _check_loads(content: dict[str, bytes], student: Student) -> None:
    """What is sent must be loaded by others to the same student.

    Raises:
        UserError: it is not.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        for path, data in content.items():
            (Path(folder) / path).write_bytes(data)
        sent = load(folder)
    example = student.example()
    if not torch.equal(sent.outputs(example), student.outputs(example)):
        raise UserError("what would be sent answers otherwise than the run; restore its files.")
