"""Stores that are damaged, full, read-only, of another version, or no stores at all: a sentence, and no wrong data."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from tuition import teachers
from tuition.data import Accounts, Pool
from tuition.errors import UserError
from tuition.store import ResponseStore, drop_damaged, usage, verify


def right(inputs: torch.Tensor) -> torch.Tensor:
    return inputs * torch.tensor([1.0, 2.0, 3.0])


TEACHER = teachers.from_callable(right, fingerprint="times three", name="times", code="")


def nothing_new(inputs: torch.Tensor) -> torch.Tensor:
    raise AssertionError("what is stored was asked again")


SILENT = teachers.from_callable(nothing_new, fingerprint="times three", name="times", code="")


@pytest.fixture
def filled(path: Path, pool: Pool) -> Path:
    """A closed store of ten blobs of ten answers."""
    ResponseStore(str(path)).ask(TEACHER, pool, budget=100, batch_size=10)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "a store that nobody uses is one file"
    return path


def change(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [0, 9, 100, -130, -1])
def test_a_flipped_bit_in_an_answer_is_found_and_nothing_else_lost(filled: Path, pool: Pool, at: int) -> None:
    connection = sqlite3.connect(filled)
    (payload,) = connection.execute("SELECT payload FROM tuition_blobs WHERE id = 4").fetchone()
    connection.close()
    change(filled, "UPDATE tuition_blobs SET payload = ? WHERE id = 4", flip(payload, at % len(payload)))
    store = ResponseStore(str(filled))
    with pytest.raises(UserError, match=r"blob 4 of the store is damaged \(its bytes do not match their checksum\)"):
        store.ask(SILENT, pool, budget=100)
    others = torch.cat([torch.arange(30), torch.arange(40, 100)])
    assert torch.equal(store.ask(SILENT, pool[others], budget=100).responses["logits"], right(pool[others].inputs))
    found = verify(store)
    assert (found.responses, found.intact, len(found.problems)) == (100, 90, 1)
    assert drop_damaged(store) == 10
    assert verify(store).problems == ()
    assert store.ask(TEACHER, pool, budget=110).accounts == Accounts(paid=10, served=90)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tuition_responses SET blob_row = 9 - blob_row WHERE blob_id = 4",
        "UPDATE tuition_responses SET blob_id = 5 WHERE blob_id = 4",
        "UPDATE tuition_responses SET blob_id = 77 WHERE blob_id = 4",
        "UPDATE tuition_responses SET blob_row = blob_row + 10 WHERE blob_id = 4",
    ],
)
def test_a_wrong_index_is_found_and_repaired(filled: Path, pool: Pool, statement: str) -> None:
    change(filled, statement)
    store = ResponseStore(str(filled))
    with pytest.raises(UserError, match=r"blob \d+ of the store is damaged"):
        store.ask(SILENT, pool, budget=100)
    found = verify(store)
    assert (found.responses, found.intact, len(found.problems)) == (100, 90, 1)
    assert drop_damaged(store) == 0
    assert torch.equal(store.ask(SILENT, pool, budget=100).responses["logits"], right(pool.inputs))


def test_answers_of_one_teacher_are_not_taken_for_anothers(filled: Path, pool: Pool) -> None:
    store = ResponseStore(str(filled))
    other = teachers.from_callable(lambda x: -x.expand(-1, 3), fingerprint="other", name="other")
    store.ask(other, pool, budget=100, batch_size=10)
    change(filled, "UPDATE tuition_blobs SET layout_id = 3 - layout_id")
    with pytest.raises(UserError, match="damaged"):
        store.ask(SILENT, pool, budget=100)


def test_flipped_bits_anywhere_never_give_wrong_data(filled: Path, pool: Pool, tmp_path: Path) -> None:
    """Bits of the whole file, pages of SQLite's own included: the right answers, or a sentence."""
    data, chance, sentences = filled.read_bytes(), random.Random(0), 0
    victim = tmp_path / "victim" / "responses.db"
    for _ in range(150):
        shutil.rmtree(victim.parent, ignore_errors=True)
        victim.parent.mkdir()
        at = chance.randrange(len(data))
        victim.write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
        try:
            found = ResponseStore(str(victim)).ask(SILENT, pool, budget=0).responses["logits"]
        except UserError:
            sentences += 1
        else:
            assert torch.equal(found, right(pool.inputs)), at
    assert 5 < sentences < 140


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(filled: Path, pool: Pool, part: float) -> None:
    os.truncate(filled, int(filled.stat().st_size * part))
    with pytest.raises(UserError, match="damaged"):
        ResponseStore(str(filled)).ask(SILENT, pool, budget=100)


FILL = """
import resource, sys, torch
from tuition import teachers
from tuition.data import from_tensors
from tuition.errors import UserError
from tuition.store import ResponseStore
store = ResponseStore(sys.argv[1])
if sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
pool = from_tensors(torch.arange(100_000.).unsqueeze(1))
try:
    wide = teachers.from_callable(lambda x: x.expand(-1, 1000), fingerprint="wide", name="wide")
    store.ask(wide, pool, budget=100_000)
except UserError as error:
    print(error)
"""


def fill(path: Path, *limit: str) -> str:
    done = subprocess.run([sys.executable, "-c", FILL, str(path), *limit], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_filled(path: Path, pool: Pool) -> None:
    """What was stored before is there, and every answer that was paid for."""
    store = ResponseStore(str(path))
    assert torch.equal(store.ask(SILENT, pool, budget=100).responses["logits"], right(pool.inputs))
    found = verify(store)
    assert found.problems == ()
    accounts = store.accounts("wide")
    assert found.responses == 100 + accounts.paid
    assert accounts.unknown == 0


def test_a_file_that_cannot_grow(filled: Path, pool: Pool) -> None:
    said = fill(filled, str(4 << 20))
    assert "cannot be used (disk I/O error" in said or "is full" in said
    assert "nothing that was stored is lost" in said
    assert "the next ask takes them in" in said
    check_filled(filled, pool)


def test_a_full_disk(filled: Path, pool: Pool, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        shutil.copy(filled, disk / "responses.db")
        assert "these calls were not sent, free some space" in fill(disk / "responses.db")
        shutil.copytree(disk, tmp_path / "roomy")
        check_filled(tmp_path / "roomy" / "responses.db", pool)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_read_only_file(filled: Path, pool: Pool) -> None:
    """It can be read. As an ordinary user, because nothing is read-only to root."""
    folder = Path(tempfile.mkdtemp())
    shutil.copy(filled, folder)
    (folder / filled.name).chmod(0o444)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        store = ResponseStore(str(folder / filled.name))
        assert store.accounts() == usage(store)[0].accounts == Accounts(paid=100)
        assert (verify(store).intact, verify(store).problems) == (100, ())
        assert store.plan(SILENT, pool).new == 0
        with pytest.raises(UserError, match="writable"):
            store.ask(TEACHER, pool, budget=100)
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize("version", [1, 99])
def test_another_version_is_refused(filled: Path, version: int) -> None:
    change(filled, "UPDATE tuition_version SET version = ?", version)
    with pytest.raises(UserError, match=rf"has version {version}, .*; use the tuition that wrote it"):
        ResponseStore(str(filled))


def test_a_read_only_disk(filled: Path, pool: Pool, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a disk is not permitted here")
    try:
        shutil.copy(filled, disk / "responses.db")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        store = ResponseStore(str(disk / "responses.db"))
        assert usage(store)[0].accounts == Accounts(paid=100)
        assert (verify(store).intact, verify(store).problems) == (100, ())
        with pytest.raises(UserError, match="writable"):
            store.ask(TEACHER, pool, budget=100)
        del store
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_hard_link_is_refused(filled: Path, tmp_path: Path) -> None:
    os.link(filled, tmp_path / "second.db")
    for name in (filled, tmp_path / "second.db"):
        with pytest.raises(UserError, match="has a second name, a hard link"):
            ResponseStore(str(name))
    (tmp_path / "second.db").unlink()
    assert ResponseStore(str(filled)).accounts() == Accounts(paid=100)


def test_what_is_no_store(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to look like one to nobody " * 10)
    with pytest.raises(UserError, match="the file is not a store, or damaged"):
        ResponseStore(str(text))
    assert text.read_text().startswith("not a database"), "it was left alone"

    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(UserError, match="a database of something else"):
        ResponseStore(str(other))
    assert other.read_bytes() == before, "it was left alone"

    with pytest.raises(UserError, match="check that its folder exists and is writable"):
        ResponseStore(str(tmp_path / "nowhere" / "responses.db"))
    with pytest.raises(UserError, match="is a folder; name a file to write"):
        ResponseStore(str(tmp_path))
    for url in ("sqlite://", ":memory:", "sqlite:///file:x?mode=memory&uri=true"):
        with pytest.raises(UserError, match="give its plain path"):
            ResponseStore(url)
    with pytest.raises(UserError, match="not mysql"):
        ResponseStore("mysql://host/name")
    with pytest.raises(UserError, match="is not a URL"):
        ResponseStore("://")


def test_a_connection_that_is_cut(server: str, pool: Pool) -> None:
    """The server ends the asker's connection while an answer is on its way: it is stored all the same, by a new one."""
    import psycopg

    with psycopg.connect(server.format("postgres"), autocommit=True) as admin:
        admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

        def cut(inputs: torch.Tensor) -> torch.Tensor:
            if 50 in inputs:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()")
            return right(inputs)

        store = ResponseStore(server.format("postgres"))
        with pytest.raises(UserError, match="cannot be used"):
            store.ask(
                teachers.from_callable(cut, fingerprint="times three", name="times", code=""),
                pool,
                budget=100,
                batch_size=10,
            )
    assert store.accounts() == Accounts(paid=60)
    transfer = store.ask(TEACHER, pool, budget=100)
    assert transfer.accounts == Accounts(paid=40, served=60)
    assert torch.equal(transfer.responses["logits"], right(pool.inputs))


def test_a_server_that_is_not_there_and_a_password_that_is_not_shown() -> None:
    with pytest.raises(UserError, match="check its path or URL and its server") as raised:
        ResponseStore("postgresql://me:secret@127.0.0.1:1/name")
    assert "secret" not in str(raised.value)
