"""Users of one group share a store in a folder of the group's, also when one of them was killed."""

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tuition import teachers
from tuition.data import Accounts, Pool, from_tensors
from tuition.store import ResponseStore, verify

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or os.geteuid() != 0, reason="only root can be several users in turn"
)
GROUP, ALICE, BOB = 54321, 54322, 54323  # users of these numbers need no names; each has a group of its own as well


@pytest.fixture(params=["set-group-id", "plain"])
def shared(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the group's, where new files get the group or, in a plain one, their user's own."""
    outer = Path(tempfile.mkdtemp())
    outer.chmod(0o755)
    folder = outer / "shared"
    folder.mkdir()
    os.chown(folder, ALICE, GROUP)
    folder.chmod(0o2770 if request.param == "set-group-id" else 0o770)
    yield folder
    shutil.rmtree(outer)


def as_user(user: int, act: Callable[[], None]) -> int:
    """Act as a user with a usual umask, in a process of its own; returns the exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([GROUP])
            os.setgid(user)
            os.setuid(user)
            os.umask(0o022)
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def ask(path: Path, rows: slice, expected: Accounts | None = None, killed_at: int | None = None) -> None:
    pool = from_tensors(torch.arange(100.0).unsqueeze(1))[rows]

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        if killed_at is not None and killed_at in inputs:
            os.kill(os.getpid(), signal.SIGKILL)
        return inputs * 2

    teacher = teachers.from_callable(answer, fingerprint="twice", name="twice")
    transfer = ResponseStore(str(path)).ask(teacher, pool, budget=1000, batch_size=10)
    assert torch.equal(transfer.responses["logits"], pool.inputs * 2)
    assert expected is None or transfer.accounts == expected, transfer.accounts


def test_a_store_is_shared_also_after_a_kill(shared: Path, tmp_path: Path, pool: Pool) -> None:
    ask(tmp_path / "warm.db", slice(0, 10))  # so that all is imported that other users could not read
    path = shared / "responses.db"
    assert as_user(ALICE, lambda: ask(path, slice(0, 20))) == 0
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o664, GROUP)
    assert as_user(BOB, lambda: ask(path, slice(0, 40), Accounts(paid=20, served=20))) == 0

    # Alice is killed in flight: her log, its index and the file that said that she lives stay behind.
    assert as_user(ALICE, lambda: ask(path, slice(0, 100), killed_at=70)) == -signal.SIGKILL
    left = {file.name.partition("responses.db")[2][:5]: file.stat() for file in shared.iterdir()}
    assert left.keys() == {"", "-wal", "-shm", "-ask-"}
    for what, file in left.items():
        assert (file.st_gid, stat.S_IMODE(file.st_mode) & 0o060) == (GROUP, 0o060), what

    assert as_user(BOB, lambda: ask(path, slice(0, 100), Accounts(paid=30, served=70))) == 0
    assert [file.name for file in shared.iterdir()] == ["responses.db"]
    assert as_user(ALICE, lambda: ask(path, slice(0, 100), Accounts(served=100))) == 0
    store = ResponseStore(str(path))  # root's turn, whose files the others can use as well
    assert store.accounts() == Accounts(paid=110, served=190, unknown=10)
    assert as_user(BOB, lambda: ask(path, slice(0, 100), Accounts(served=100))) == 0
    assert verify(store).problems == ()


def test_a_folder_of_ones_own_stays_ones_own(tmp_path: Path, pool: Pool) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        os.chown(folder, ALICE, ALICE)
        folder.chmod(0o700)
        assert as_user(ALICE, lambda: ask(folder / "responses.db", slice(0, 10))) == 0
        found = (folder / "responses.db").stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ALICE, 0o644)
        assert as_user(BOB, lambda: ask(folder / "responses.db", slice(0, 10))) == 1
    finally:
        shutil.rmtree(folder)
