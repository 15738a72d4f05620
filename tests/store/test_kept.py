"""Answers that are paid for are kept whatever goes wrong beside them: real locks, full disks, files that vanish."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from tuition import teachers
from tuition.data import Accounts, Pool, from_tensors
from tuition.errors import UserError
from tuition.store import ResponseStore, TeacherError, drop_damaged, payload, usage, verify
from tuition.store import database as databases
from tuition.store.ledger import Ledger

SPILL = "responses.db-unrecorded-*.safetensors"


def right(inputs: torch.Tensor) -> torch.Tensor:
    return inputs * torch.tensor([1.0, 2.0, 3.0])


def teacher(hook: Callable[[torch.Tensor], Any] = lambda inputs: None) -> Any:
    """Answers rightly; `hook` sees the inputs before that, and its answer is taken where it has one."""

    def answer(inputs: torch.Tensor) -> Any:
        found = hook(inputs)
        return right(inputs) if found is None else found

    return teachers.from_callable(answer, fingerprint="times three", name="times", code="")


def check_all_is_there(store: ResponseStore, pool: Pool, accounts: Accounts) -> None:
    """The rest is asked; what was paid before is not paid again, and nothing is unknown."""
    transfer = store.ask(teacher(), pool, budget=100)
    assert torch.equal(transfer.responses["logits"], right(pool.inputs))
    assert transfer.accounts == Accounts(paid=100 - accounts.paid, served=accounts.paid)
    assert store.accounts() == Accounts(paid=100, served=accounts.paid)
    assert verify(store).problems == ()


# -- one bad answer is one bad answer ----------------------------------------------------------------------------------

BAD = {
    "a name that is not text": lambda x: {"logits": right(x), 5: x},
    "a name that cannot be encoded": lambda x: {"logits": right(x), "\ud800": x},
    "a name with a zero byte": lambda x: {"logits": right(x), "a\0b": x},
    "a name without end": lambda x: {"logits": right(x), "x" * 10_000: x},
    "an empty name": lambda x: {"logits": right(x), "": x},
    "the format's own name": lambda x: {"logits": right(x), "__metadata__": x},
    "a sparse tensor": lambda x: {"logits": right(x).to_sparse()},
    "a sparse tensor of rows": lambda x: {"logits": right(x).to_sparse_csr()},
    "a complex tensor": lambda x: {"logits": x.to(torch.complex64)},
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_answer_loses_no_other(url: str, pool: Pool, what: str) -> None:
    """Four requests at once: the bad answer comes first, the three good ones after it was seen."""
    seen = threading.Event()

    def hook(inputs: torch.Tensor) -> Any:
        if 0 in inputs:
            return BAD[what](inputs)
        seen.wait(120)
        return None

    store = ResponseStore(url)
    with pytest.raises(TeacherError, match="that answer is paid, not stored"):
        store.ask(teacher(hook), pool[:40], budget=40, batch_size=10, concurrency=4, progress=lambda *_: seen.set())
    assert (verify(store).intact, store.accounts()) == (30, Accounts(paid=40))
    assert verify(store).problems == ()


def test_something_that_nobody_foresaw_is_one_bad_answer_too(
    path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's own code fails at one of four answers that are recorded together."""
    encode = payload.encode

    def fail(digests: Any, outputs: Any) -> bytes:
        if bool((outputs["logits"] == 15).any()):
            raise RuntimeError("cannot encode")
        return encode(digests, outputs)

    monkeypatch.setattr("tuition.store.payload.encode", fail)
    four, store = threading.Barrier(4), ResponseStore(str(path))
    with pytest.raises(TeacherError, match=r"something that cannot be stored \(RuntimeError\); that answer is paid"):
        store.ask(teacher(lambda _: (four.wait(120), None)[1]), pool[:40], budget=40, batch_size=10, concurrency=4)
    # 15 is in the answers to 10...19 alone, and 5 * 3 = 15 in those to 0...9.
    assert (verify(store).intact, store.accounts()) == (20, Accounts(paid=40))


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt()])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_ends_a_teachers_thread_ends_the_ask(
    path: Path, pool: Pool, error: BaseException, concurrency: int
) -> None:
    if concurrency == 1 and isinstance(error, KeyboardInterrupt):
        pytest.skip("that is the user's own interrupt")
    seen = threading.Event()

    def hook(inputs: torch.Tensor) -> Any:
        if 20 in inputs:
            raise error
        if concurrency > 1:
            seen.wait(120)
        return None

    store = ResponseStore(str(path))
    with pytest.raises(TeacherError, match=f"failed with {type(error).__name__}.*; that request counts as paid"):
        store.ask(
            teacher(hook),
            pool[:40],
            budget=40,
            batch_size=10,
            concurrency=concurrency,
            progress=lambda *_: seen.set(),
        )
    paid = 40 if concurrency > 1 else 30
    assert (verify(store).intact, store.accounts()) == (paid - 10, Accounts(paid=paid, unknown=10))


# -- the store cannot be written to ------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_lock_that_is_held_for_longer_than_the_wait(path: Path, pool: Pool, concurrency: int) -> None:
    store = ResponseStore(str(path))
    store.ask(teacher(), pool[:10], budget=100)
    other = sqlite3.connect(path, check_same_thread=False)
    all_sent = threading.Barrier(concurrency)

    def hook(inputs: torch.Tensor) -> None:
        if all_sent.wait(120) == 0:
            other.execute("BEGIN IMMEDIATE")
        all_sent.wait(120)  # none is answered before the lock is held

    with pytest.raises(UserError, match=r"database is locked.* the next ask takes them in"):
        store.ask(teacher(hook), pool, budget=100, batch_size=10, concurrency=concurrency)
    assert list(path.parent.glob(SPILL))
    other.rollback()
    other.close()
    paid = 10 + 10 * concurrency
    assert store.accounts() == Accounts(paid=paid), "answers that are kept are known, and nothing is unknown"
    assert not list(path.parent.glob(SPILL))
    check_all_is_there(store, pool, Accounts(paid=paid))


@pytest.mark.usefixtures("impatient")
def test_a_file_that_was_taken_in_and_is_still_there_changes_nothing(
    path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the commit and the removal of the file; then once more, when its answers were pruned."""
    store = ResponseStore(str(path))
    other = sqlite3.connect(path, check_same_thread=False)

    def hook(inputs: torch.Tensor) -> None:
        other.execute("BEGIN IMMEDIATE")

    with pytest.raises(UserError, match="takes them in"):
        store.ask(teacher(hook), pool[:10], budget=100, cost_per_call="0.25")
    other.rollback()
    (kept,) = path.parent.glob(SPILL)
    data = kept.read_bytes()
    for _ in range(3):
        kept.write_bytes(data)
        (found,) = usage(store)
        assert (found.accounts, str(found.cost), found.responses) == (Accounts(paid=10), "2.50", 10)
        assert not kept.exists()


@pytest.mark.usefixtures("impatient")
def test_calls_that_were_counted_as_lost_before_their_file_is_found(path: Path, pool: Pool) -> None:
    """Somebody who cannot see the file settles the dead asker's calls as unknown; they are known when it is seen."""
    store = ResponseStore(str(path))
    other = sqlite3.connect(path, check_same_thread=False)

    def hook(inputs: torch.Tensor) -> None:
        other.execute("BEGIN IMMEDIATE")

    with pytest.raises(UserError, match="takes them in"):
        store.ask(teacher(hook), pool[:10], budget=100, cost_per_call="0.25")
    other.rollback()
    (kept,) = path.parent.glob(SPILL)
    hidden = kept.rename(path.parent / "elsewhere")
    assert store.accounts() == Accounts(paid=10, unknown=10)
    hidden.rename(kept)
    assert store.accounts() == Accounts(paid=10)
    assert str(usage(store)[0].cost) == "2.50"
    check_all_is_there(store, pool, Accounts(paid=10))


@pytest.mark.usefixtures("impatient")
def test_a_damaged_spill_file_is_named_and_stops_nobody(path: Path, pool: Pool) -> None:
    store = ResponseStore(str(path))
    other = sqlite3.connect(path, check_same_thread=False)

    def hook(inputs: torch.Tensor) -> None:
        other.execute("BEGIN IMMEDIATE")

    with pytest.raises(UserError, match="takes them in"):
        store.ask(teacher(hook), pool[:10], budget=100)
    other.rollback()
    (kept,) = path.parent.glob(SPILL)
    data = bytearray(kept.read_bytes())
    for at in (3, 40, len(data) // 2, len(data) - 1):
        kept.write_bytes(bytes(data[:at]) + bytes([data[at] ^ 1]) + bytes(data[at + 1 :]))
        assert store.accounts().paid == 10
        assert kept.exists()
    store.ask(teacher(), pool[:20], budget=100)
    assert [problem for problem in verify(store).problems if kept.name in problem]
    assert drop_damaged(store) == 0
    assert not kept.exists()


def test_a_store_that_cannot_be_written_and_no_place_beside_it(
    path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Answers go to the user's cache folder then, and come back from it."""
    from tuition.store import files

    monkeypatch.setenv("TUITION_CACHE", str(tmp_path / "cache"))
    store = ResponseStore(str(path))
    settle, write = Ledger.settle, files.write_into

    def fail(*_: Any) -> None:
        raise UserError("the store cannot be used (disk I/O error); check the disk.")

    def no_room(folder: int, name: str, data: bytes) -> None:
        if name.startswith(path.name):
            raise OSError(28, "No space left on device")
        write(folder, name, data)

    monkeypatch.setattr(Ledger, "settle", fail)
    monkeypatch.setattr(files, "write_into", no_room)
    with pytest.raises(UserError, match=r"disk I/O error.* the next ask takes them in"):
        store.ask(teacher(), pool, budget=100, batch_size=10)
    monkeypatch.setattr(Ledger, "settle", settle)
    check_all_is_there(ResponseStore(str(path)), pool, Accounts(paid=10))
    assert list((tmp_path / "cache" / "unrecorded").iterdir()) == []


def test_a_lost_server(server: str, pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The server refuses everybody when the answers come; they are kept by this user until it is back."""
    import psycopg

    monkeypatch.setenv("TUITION_CACHE", str(tmp_path / "cache"))
    url = server.format("victim")
    with psycopg.connect(server.format("postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE victim")

        def hook(inputs: torch.Tensor) -> None:
            admin.execute("ALTER DATABASE victim ALLOW_CONNECTIONS false")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'victim'")

        with pytest.raises(UserError, match="the next ask takes them in"):
            ResponseStore(url).ask(teacher(hook), pool[:20], budget=100, batch_size=10)
        assert len(list((tmp_path / "cache" / "unrecorded").iterdir())) == 1
        admin.execute("ALTER DATABASE victim ALLOW_CONNECTIONS true")
        check_all_is_there(ResponseStore(url), pool, Accounts(paid=10))
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'victim'")
        admin.execute("DROP DATABASE victim")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small disk of its own, of a size that can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        remount = ",remount" if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}{remount}", "tmpfs", folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small disk is not permitted here")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], capture_output=True)


@pytest.mark.parametrize("size", ["600k", "5m", "9m", "12m"])
def test_no_call_is_paid_for_without_room_for_its_answer(disk: Callable[[str], Path], pool: Pool, size: str) -> None:
    billed = []

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        billed.append(len(inputs))
        return inputs.float().expand(-1, 1000).contiguous()

    wide = teachers.from_callable(answer, fingerprint="wide", name="wide")
    many = from_tensors(torch.arange(4000.0).unsqueeze(1))
    place = str(disk(size) / "responses.db")
    for _ in range(3):
        with pytest.raises(UserError, match=r"MB free, and the answers to 64 calls may take .* free some space"):
            ResponseStore(place).ask(wide, many, budget=10_000)
    store = ResponseStore(place)
    assert (verify(store).intact, store.accounts().unknown) == (sum(billed), 0)
    assert bool(billed) == (size not in ("600k", "5m"))
    before = len(billed)
    disk("60m")
    transfer = ResponseStore(place).ask(wide, many, budget=4000)
    assert transfer.accounts == Accounts(paid=4000 - sum(billed[:before]), served=sum(billed[:before]))
    assert sum(billed) == 4000


# -- the store's own file ----------------------------------------------------------------------------------------------


def vanish(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    if how == "deleted with its log":
        for file in path.parent.glob("responses.db*"):
            if "-ask-" not in file.name:
                file.unlink()
    if how == "renamed":
        path.rename(path.with_name("old.db"))
    if how == "replaced":
        path.rename(path.with_name("old.db"))
        shutil.copy(path.with_name("old.db"), path)
    if how == "its folder renamed":
        path.parent.rename(path.parent.with_name("moved"))


@pytest.mark.parametrize("how", ["deleted", "deleted with its log", "renamed", "replaced", "its folder renamed"])
def test_a_file_that_is_not_the_one_that_was_opened_ends_the_ask(tmp_path: Path, pool: Pool, how: str) -> None:
    path = tmp_path / "folder" / "responses.db"
    path.parent.mkdir()
    billed = []

    def hook(inputs: torch.Tensor) -> None:
        billed.append(len(inputs))
        if len(billed) == 3:
            vanish(path, how)

    what = "replaced by another file" if how == "replaced" else "deleted or renamed"
    store = ResponseStore(str(path))
    with pytest.raises(UserError, match=f"was {what} while it was in use; put it back.* the next ask takes them in"):
        store.ask(teacher(hook), pool, budget=100, batch_size=10)
    assert sum(billed) == 30, "it went on paying into nothing"
    with pytest.raises(UserError, match=what):
        store.ask(teacher(), pool, budget=100)
    if how == "its folder renamed":
        path = tmp_path / "moved" / "responses.db"
    if how == "renamed":
        path.with_name("old.db").rename(path)
    if how in ("renamed", "its folder renamed"):
        check_all_is_there(ResponseStore(str(path)), pool, Accounts(paid=30))
    else:  # begun again: the answers that were kept are all that there is, and were paid for elsewhere
        fresh = ResponseStore(str(path))
        transfer = fresh.ask(teacher(), pool, budget=100)
        assert torch.equal(transfer.responses["logits"], right(pool.inputs))
        # A copy in its place, with the log beside it, knows of the request; a new store does not.
        assert sum(found.imported for found in usage(fresh)) == (0 if how == "replaced" else 10)
        assert transfer.accounts.paid + transfer.accounts.served == 100
    assert not list(path.parent.glob(SPILL))


def test_a_copy_of_the_one_file_lacks_a_thousand_pages_at_most(path: Path) -> None:
    """Taken while the store is open and written to; each answer here is a commit of more than one page."""
    copy = path.with_name("copy.db")
    many = from_tensors(torch.arange(200.0).unsqueeze(1))
    wide = teachers.from_callable(lambda x: x.expand(-1, 10_000), fingerprint="wide", name="wide")

    def look(settled: int, total: int) -> None:
        if settled == 190:
            shutil.copy(path, copy)

    ResponseStore(str(path)).ask(wide, many, budget=200, batch_size=1, progress=look)
    found = verify(ResponseStore(str(copy)))
    assert found.problems == ()
    assert 190 - 1000 * 4096 // 40_000 <= found.intact <= 190


@pytest.mark.parametrize("name", ["what?.db", "100%.db", "a#b.db", "two words.db", "ünïcødé.db", "%41.db", "a?mode=ro"])
@pytest.mark.parametrize("form", ["{}", "sqlite:///{}"])
def test_a_files_name_is_what_it_says(tmp_path: Path, pool: Pool, name: str, form: str) -> None:
    place = form.format(tmp_path / name)
    ResponseStore(place).ask(teacher(), pool, budget=100)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert verify(ResponseStore(place)).intact == 100


# -- together ----------------------------------------------------------------------------------------------------------


def test_answers_that_arrive_together_are_one_transaction(path: Path, pool: Pool) -> None:
    """Fifty requests are reserved in one transaction; all are answered before the first is looked at."""
    store, fifty, commits = ResponseStore(str(path)), threading.Barrier(50), []
    store.ask(teacher(), pool[:1], budget=100)
    import sqlalchemy as sa

    def count(connection: sa.Connection) -> None:
        if not connection.get_execution_options().get("reading"):
            commits.append(connection)

    sa.event.listen(store.database.engine, "commit", count)
    released = threading.Event()

    def hook(inputs: torch.Tensor) -> None:
        if fifty.wait(120) == 0:
            released.set()

    def wait_for_all(self: Any) -> float | None:
        released.wait(120)
        while self.callers._arrived.qsize() < 50:
            released.wait(0.001)
        return None

    from tuition.store.asking import Sending

    patience, Sending.patience = Sending.patience, wait_for_all  # type: ignore[method-assign]
    try:
        store.ask(teacher(hook), pool[1:51], budget=100, batch_size=1, concurrency=50)
    finally:
        Sending.patience = patience  # type: ignore[method-assign]
    assert len(commits) == 4  # opened, fifty reserved, fifty recorded, closed
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("SELECT count(*) FROM tuition_blobs").fetchone() == (2,)


def test_an_error_that_cannot_say_its_text_loses_no_answer(path: Path, pool: Pool) -> None:
    class Silent(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError("no text")

    together = threading.Barrier(4)

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        together.wait(120)
        if 0 in inputs:
            raise Silent
        return inputs * 2

    store = ResponseStore(str(path))
    with pytest.raises(TeacherError, match="failed with Silent: its text cannot be made, RuntimeError"):
        store.ask(teachers.from_callable(answer, fingerprint="t"), pool[:40], budget=40, batch_size=10, concurrency=4)
    assert store.accounts() == Accounts(paid=40, unknown=10)
    assert verify(store).intact == 30
