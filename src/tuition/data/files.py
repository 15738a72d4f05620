"""Which files of a data folder are read: regular ones that lie inside it, without what systems leave behind."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tuition.errors import UserError

LEFTOVERS = {
    "__macosx", "icon\r",  # macOS
    "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "lost+found",  # network and other disks
    "$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db",
    "desktop.ini",  # Windows
    "__pycache__",
}  # fmt: skip
DOCUMENTS = ("readme", "license", "licence", "citation", "changelog", "copying", "notice", "dataset_info")
SHOWN = 3  # files that a sentence names

SAMPLED_FILES, SAMPLED_BLOCKS, BLOCK = 64, 192, 4096

_log = logging.getLogger(__name__)


def skipped(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by a system, an editor or a notebook."""
    low = name.lower()
    return low.startswith((".", "~$")) or low.endswith(("~", ":zone.identifier")) or low in LEFTOVERS


def entries(folder: Path) -> list[Path]:
    """What a folder holds, in order of name, without what is skipped."""
    try:
        return sorted(path for path in folder.iterdir() if not skipped(path.name))
    except OSError as error:
        raise _unreadable(error) from error


def root_of(folder: Path) -> Path:
    """The folder that links may lead to: the data folder, or, in the hub's cache, that of all snapshots."""
    folder = Path(os.path.realpath(folder))
    return folder.parent.parent if folder.parent.name == "snapshots" else folder


def check_inside(path: Path, root: Path) -> None:
    """Refuse a path that leads out of `root`, the real path of the data folder.

    Raises:
        UserError: it does.
    """
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise UserError(f"{path} leads out of the data folder {root}; put what it names inside, or remove it.")


def check(path: Path, root: Path) -> os.stat_result:
    """What is known of a file that is to be read.

    Raises:
        UserError: it is not a regular file, leads out of `root`, or cannot be read.
    """
    check_inside(path, root)
    return regular(path)


def regular(path: Path) -> os.stat_result:
    """The same, of a file that is known to lie inside."""
    try:
        state = path.stat()
    except OSError as error:
        raise _unreadable(error) from error
    if not stat.S_ISREG(state.st_mode):
        raise UserError(f"{path} is not a regular file but a {_kind(state.st_mode)}; remove it.")
    return state


@dataclass
class Walk:
    """A walk through a data folder that follows links inside it, and enters each folder once.

    Attributes:
        root: the real path of the data folder.
        passed: what the walk passed over: links back to folders that it has been in.
    """

    root: Path
    passed: list[Path] = field(default_factory=list)

    def files(self, start: Path) -> Iterator[Path]:
        """The files below `start`: those of a folder in order of name, then those of its folders.

        Raises:
            UserError: a link leads out of the root, or a folder cannot be read.
        """
        check_inside(start, self.root)
        # The folders above are not entered through a link.
        here = Path(os.path.realpath(start))
        above = [path for path in here.parents if path.is_relative_to(self.root)]
        yield from self._files(start, {_inode(path.stat()) for path in (here, *above)})

    def _files(self, folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
        inner = []
        try:
            with os.scandir(folder) as scanned:
                inside = sorted((entry for entry in scanned if not skipped(entry.name)), key=lambda entry: entry.name)
            for entry in inside:
                path = folder / entry.name
                if entry.is_symlink():
                    check_inside(path, self.root)
                if not entry.is_dir():
                    yield path
                elif _inode(state := entry.stat()) in seen:
                    self.passed.append(path)
                else:
                    seen.add(_inode(state))
                    inner.append(path)
        except OSError as error:
            raise _unreadable(error) from error
        for path in inner:
            yield from self._files(path, seen)


def state(paths: Sequence[Path], folder: Path) -> str:
    """A digest of the state of regular files: names, sizes, times, and a sample of their content.

    Sampled are up to 64 files and at least 3 blocks of 4 KiB of each; 192 blocks of few files. A file that is rewritten
    shows in its time of change (ctime), which programs cannot set, or in the sample.

    Of 50,000 images of a folder this takes half a second, most of it to ask the system for sizes and times.

    Raises:
        UserError: as `regular`.
    """
    digest = hashlib.sha256()
    sizes = []
    for path in paths:
        known = regular(path)
        sizes.append(known.st_size)
        digest.update(_line(path, folder, known))
    step = max(1, len(paths) / SAMPLED_FILES)
    chosen = sorted({int(i * step) for i in range(min(len(paths), SAMPLED_FILES))})
    for row in chosen:
        for part in _sample(paths[row], sizes[row], max(3, SAMPLED_BLOCKS // len(chosen))):
            digest.update(part)
    return digest.hexdigest()


def outline(paths: Sequence[Path], folder: Path) -> str:
    """A digest of names, sizes and times alone, of files that are not read themselves."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(_line(path, folder, path.lstat()))
    return digest.hexdigest()


def _line(path: Path, folder: Path, known: os.stat_result) -> bytes:
    """A file's name in the folder, its size, and when it was written and changed."""
    name = os.fsencode(os.fspath(path)[len(os.fspath(folder)) :])
    return name + f"\0{known.st_size} {known.st_mtime_ns} {known.st_ctime_ns}\0".encode()


def _sample(path: Path, size: int, blocks: int) -> Iterator[bytes]:
    """Blocks of a file, evenly spread, the first and the last among them."""
    try:
        with path.open("rb", buffering=0) as file:
            if size <= blocks * BLOCK:
                yield file.read(size)
                return
            for i in range(blocks):
                file.seek((size - BLOCK) * i // (blocks - 1))
                yield file.read(BLOCK)
    except OSError as error:
        raise _unreadable(error) from error


def report_passed(folder: Path, passed: Sequence[Path], why: str) -> None:
    """Say how many files of a data folder are not read, and name the first; documents are not counted. What was said
    of a folder is not repeated, because a command reads several splits of it.
    """
    names = [
        os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
        for path in passed
        if not path.name.lower().startswith(DOCUMENTS)
    ]
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        what = "1 entry is" if len(names) == 1 else f"{len(names):,} entries are"
        _say_once(folder, f"{what} passed over ({why}): {', '.join(names[:SHOWN])}{more}")


@lru_cache
def _say_once(folder: Path, text: str) -> None:
    _log.warning("%s: %s.", folder.name, text)


def _inode(known: os.stat_result) -> tuple[int, int]:
    return known.st_dev, known.st_ino


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFDIR: "folder"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _unreadable(error: OSError) -> UserError:
    return UserError(f"cannot read {error.filename} ({error.strerror}); fix it or remove it.")
