"""Answers that were paid for and could not be recorded: kept in a file beside the store until the next ask.

A file holds what became of requests: how each is counted, and its answers as blobs of the store. It is safetensors with
a checksum over everything, and it is on the disk before anybody relies on it. Beside a store in PostgreSQL, or in a
folder that cannot be written to, the file goes to the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from tuition.data import ondisk
from tuition.data.transfer import Accounts, Bill
from tuition.store import files, payload

if TYPE_CHECKING:
    from tuition.store.calls import RequestResult
    from tuition.store.database import Database

ABOUT, CHECKSUM = "tuition", "checksum"


class DamagedSpillError(Exception):
    """A spill file is not what was written."""


def write(database: Database, fingerprint: str, landed: Sequence[RequestResult]) -> Path:
    """Keep what became of requests of one teacher; returns the file.

    Raises:
        OSError: it cannot be written anywhere.
    """
    data, trouble = _encode(fingerprint, landed), OSError("no folder to write to")
    for folder, prefix in _places(database):
        path = folder / f"{prefix}{secrets.token_hex(8)}.safetensors"
        try:
            if database.path is not None and folder == database.path.parent:
                files.write_into(database.folder, path.name, data)
            else:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                files.write_durably(path, data)
        except OSError as error:
            trouble = error
            continue
        if database.path is not None and database.path.exists() and path.exists():
            files.resemble(path, database.path)
        return path
    raise trouble


def pending(database: Database) -> list[Path]:
    """Files whose answers the store does not have yet, as far as this user can see them."""
    paths = []
    for folder, prefix in _places(database):
        pattern = re.compile(re.escape(prefix) + r"[0-9a-f]{16}\.safetensors")
        try:
            names = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
        except OSError:  # no such folder, or not ours to read
            continue
        paths += [path for path in sorted(names) if stat.S_ISREG(path.lstat().st_mode)]
    return paths


def read(path: Path) -> tuple[str, list[tuple[int, Accounts, Bill, list[bytes], dict[str, Tensor]]]]:
    """The teacher's fingerprint, and the requests of a file as `RequestResult` holds them.

    Raises:
        DamagedSpillError: it is not what was written.
    """
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            blobs = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
        if _checksum(about[ABOUT], blobs) != about[CHECKSUM]:
            raise DamagedSpillError("its bytes do not match their checksum")
        contents = json.loads(about[ABOUT])
        kept = []
        for number, flight in enumerate(contents["flights"]):
            blob = blobs.get(str(number))
            digests, outputs = ([], {}) if blob is None else payload.decode(blob)
            bill = Bill.from_dict(flight["bill"])
            kept.append((int(flight["id"]), Accounts(**flight["accounts"]), bill, digests, outputs))
        return contents["fingerprint"], kept
    except DamagedSpillError:
        raise
    except Exception as error:  # of safetensors, or of what a file holds that something else wrote
        raise DamagedSpillError(f"it cannot be read ({type(error).__name__})") from error


def cache_folder() -> Path:
    return ondisk.cache_folder() / "unrecorded"


def _places(database: Database) -> list[tuple[Path, str]]:
    """Folders to keep answers in, and how the files' names begin there; the best first."""
    places = []
    if database.path is not None:
        places.append((database.path.parent, f"{database.path.name}-unrecorded-"))
    try:
        where = str(database.path or database.shown)
        places.append((cache_folder(), hashlib.blake2b(where.encode(errors="surrogateescape")).hexdigest()[:16] + "-"))
    except RuntimeError:  # a user without a home folder
        pass
    return places


def _encode(fingerprint: str, landed: Sequence[RequestResult]) -> bytes:
    flights = [{"id": one.flight, "accounts": one.accounts.as_dict(), "bill": one.bill.as_dict()} for one in landed]
    about = json.dumps({"fingerprint": fingerprint, "flights": flights})
    blobs = {str(i): payload.encode(one.digests, one.outputs) for i, one in enumerate(landed) if one.digests}
    tensors = {name: torch.frombuffer(bytearray(blob), dtype=torch.uint8) for name, blob in blobs.items()}
    return save(tensors, {ABOUT: about, CHECKSUM: _checksum(about, blobs)})


def _checksum(about: str, blobs: dict[str, bytes]) -> str:
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for name in sorted(blobs):
        digest.update(hashlib.blake2b(blobs[name], digest_size=16, person=name.encode()[:16]).digest())
    return digest.hexdigest()
