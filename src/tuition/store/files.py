"""Files beside a store: who may use them, and whether the store is still the file that was opened."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from tuition import disk
from tuition.errors import UserError


def create(path: Path) -> None:
    """Create a store's empty file, unless it exists. In a folder that a group writes to, the group may write to it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError:  # it exists, or SQLite will say why it cannot
        return
    try:
        folder, mode = os.stat(path.parent), stat.S_IMODE(os.fstat(handle).st_mode)
        if folder.st_mode & stat.S_IWGRP:
            with contextlib.suppress(PermissionError):  # of a group that this user is not in
                os.fchown(handle, -1, folder.st_gid)
                os.fchmod(handle, mode | stat.S_IRGRP | stat.S_IWGRP)
    finally:
        os.close(handle)


def writable(path: Path) -> bool:
    """Whether this user may write to a store: to its file, and to its folder for the log."""
    effective = os.access in os.supports_effective_ids
    return all(os.access(place, os.W_OK, effective_ids=effective) for place in (path, path.parent))


def check_one_name(path: Path) -> None:
    """
    Raises:
        UserError: the file has several names; SQLite keeps a log for each of them, and users of two would lose answers.
    """
    if path.exists() and os.stat(path).st_nlink > 1:
        raise UserError(f"the store {path} has a second name, a hard link; remove one of the two, or make it a copy.")


def resemble(path: Path, store: Path) -> None:
    """Let those who may use a store use a file beside it: the same group and mode and, if root made it, owner."""
    like, own = os.stat(store), os.stat(path)
    if own.st_uid != os.geteuid():
        return  # another user's, who did this already
    with contextlib.suppress(PermissionError):  # of a group that this user is not in
        if own.st_gid != like.st_gid or os.geteuid() == 0 != like.st_uid:
            os.chown(path, like.st_uid if os.geteuid() == 0 else -1, like.st_gid)
        if stat.S_IMODE(own.st_mode) != stat.S_IMODE(like.st_mode):
            os.chmod(path, stat.S_IMODE(like.st_mode))


def identity(path: Path) -> tuple[int, int] | None:
    """Which file this is, whatever it is called; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def free_bytes(path: Path) -> int:
    """What may still be written to the disk of a store."""
    status = os.statvfs(path.parent)
    return status.f_bavail * status.f_frsize


def write_durably(path: Path, data: bytes) -> None:
    """A file that is complete and on the disk, or not there.

    Raises:
        OSError: it cannot be written.
        UserError: it is a device or a pipe.
    """
    path = disk.replaceable(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        write_into(folder, path.name, data)
    finally:
        os.close(folder)


def write_into(folder: int, name: str, data: bytes) -> None:
    """As `write_durably`, into a folder that is open, whatever it is called by now."""
    part = f"{name}.{secrets.token_hex(4)}.part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=folder)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    os.fsync(folder)
