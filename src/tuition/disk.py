"""Files and folders: written complete or not at all, held by one run, and never over what tuition did not write."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from pathlib import Path

from tuition.errors import Notice, UserError

_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())  # folders, by this thread
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF, errno.ENOSYS}


def write(path: str | Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename: whoever reads `path` sees a complete file.

    Raises:
        UserError: the file cannot be written, or `path` is not a regular file.
    """
    target = replaceable(path)
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(path, error) from error


def append(path: Path, content: bytes) -> None:
    """Write at the end of a file that `write` has made in this process.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with open(path, "ab") as file:
            file.write(content)
    except OSError as error:
        raise _unwritten(path, error) from error


def replaceable(path: str | Path) -> Path:
    """The path, after a check that a file may replace what is there. It need not exist.

    A link is replaced, not its target: in a stranger's folder it may lead to a file of the user.

    Raises:
        UserError: it is a folder, a device, a pipe or a socket, which a file never replaces.
    """
    try:
        # Not of the resolved path: /dev/stdout may lead to a pipe, which has no path.
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Path(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder; name a file to write.")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is a device or a pipe, not a regular file; name a file to write.")
    return Path(path)


def _unwritten(path: str | Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written: {error.strerror}; free space or choose another place.")


def write_new(path: str | Path, content: bytes) -> None:
    """As `write`, but not over a file of other content.

    Raises:
        UserError: there is such a file, or the file cannot be written.
    """
    check_new(path, lambda path: path.read_bytes() == content)
    write(path, content)


def check_new(path: str | Path, ours: Callable[[Path], bool]) -> None:
    """Refuse a path that holds a file, unless it is `ours`.

    Raises:
        UserError: there is such a file, or a folder, a device, a pipe or a socket.
    """
    path = replaceable(path)
    if path.exists() and not ours(path):
        raise UserError(f"{path} exists and holds something else; name a new file, or move this one away.")


@contextlib.contextmanager
def made(directory: Path) -> Iterator[None]:
    """Make a folder with its parents. At the end, those that were made here and are empty are removed.

    Raises:
        UserError: it cannot be made.
    """
    # Not Path.exists, which raises on a name that is too long.
    new = [path for path in (directory, *directory.parents) if not os.path.exists(path)]
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(directory, error) from error
        yield
    finally:
        for path in new:
            with contextlib.suppress(OSError):  # it is not empty, or was never made
                path.rmdir()


def check_writable(directory: Path) -> None:
    """Check whether files can be written to a folder; nothing is left there, nor an empty folder.

    Raises:
        UserError: they cannot.
    """
    with made(directory):
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                file.write(bytes(4096))
                file.flush()
        except OSError as error:
            raise _unwritable(directory, error) from error


def check_ours(directory: Path, signs: Collection[str], what: str) -> None:
    """Refuse a folder that holds something, but none of `signs`; hidden files are passed over.

    Raises:
        UserError: it is not `what`.
    """
    if not directory.exists():
        return
    paths = directory.iterdir() if directory.is_dir() else [directory]
    names = {path.name for path in paths if not path.name.startswith(".")}
    if names and not names & set(signs):
        raise UserError(f"{directory} exists and is not {what}; choose another folder.")


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made; it is free again when this process has ended, however it ends.

    The lock is on the folder itself, so that no file of it remains. Within, the same thread may hold it again.

    Raises:
        UserError: another run holds it, or it cannot be made.
    """
    name = os.path.realpath(directory)
    if name in _held.get():
        yield
        return
    with made(directory):
        handle = _locked(directory)
        token = _held.set(_held.get() | {name})
        try:
            yield
        finally:
            _held.reset(token)
            os.close(handle)


def _locked(directory: Path) -> int:
    """An open, locked handle of the folder."""
    import fcntl

    while True:
        try:
            handle = os.open(directory, os.O_RDONLY)
        except OSError as error:
            raise _unwritable(directory, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UserError(f"another run is using {directory}; wait for its end, or choose another folder.") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                raise
            warnings.warn(f"{directory} cannot be locked; make sure that no other run uses it.", Notice, stacklevel=2)
        try:
            if os.path.samestat(os.fstat(handle), os.stat(directory)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # another run has removed it in between
        directory.mkdir(parents=True, exist_ok=True)


def _unwritable(directory: Path, error: OSError) -> UserError:
    why = (error.strerror or str(error)).lower()
    return UserError(f"cannot write to {directory}: {why}; free space or choose another folder.")
