"""Bytes that others wrote, or that decayed: blobs that cannot be decoded, and exports that are not what they say."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save

from tuition import teachers
from tuition.data import Accounts, Pool
from tuition.errors import UserError
from tuition.store import ResponseStore, drop_damaged, export, import_, usage, verify
from tuition.store.payload import checksum


def right(inputs: torch.Tensor) -> torch.Tensor:
    return inputs * torch.tensor([1.0, 2.0, 3.0])


TEACHER = teachers.from_callable(right, fingerprint="times three", name="times", code="")


def filled(path: Path, pool: Pool) -> ResponseStore:
    store = ResponseStore(str(path))
    store.ask(TEACHER, pool, budget=100, batch_size=10)
    return store


def inputs_of(pool: Pool) -> torch.Tensor:
    return torch.frombuffer(bytearray(b"".join(pool.digests[30:40])), dtype=torch.uint8).view(10, 16)


BLOBS: dict[str, Callable[[Pool], bytes]] = {
    "nothing": lambda pool: b"",
    "garbage": lambda pool: bytes(range(256)) * 4,
    "a length beyond the end": lambda pool: (2**60).to_bytes(8, "little") + b"{}",
    "a header that is not JSON": lambda pool: (4).to_bytes(8, "little") + b"abcd",
    "no inputs": lambda pool: save({"logits": torch.zeros(10, 3)}),
    "inputs of another type": lambda pool: save({"logits": torch.zeros(10, 3), "input_digests": torch.zeros(10, 16)}),
    "no outputs": lambda pool: save({"input_digests": inputs_of(pool)}),
    "fewer outputs than inputs": lambda pool: save({"logits": torch.zeros(9, 3), "input_digests": inputs_of(pool)}),
    "outputs of another type": lambda pool: save(
        {"logits": torch.zeros(10, 3, dtype=torch.int64), "input_digests": inputs_of(pool)}
    ),
    "one input twice": lambda pool: save(
        {"logits": torch.zeros(10, 3), "input_digests": inputs_of(pool)[:1].repeat(10, 1)}
    ),
    "the format's own name": lambda pool: save(
        {"logits": torch.zeros(10, 3), "__metadata__": torch.zeros(10, 1), "input_digests": inputs_of(pool)}
    ),
}


@pytest.mark.parametrize("what", BLOBS)
@pytest.mark.parametrize("sealed", [True, False], ids=["right checksum", "wrong checksum"])
def test_a_blob_that_cannot_be_decoded_is_damage(path: Path, pool: Pool, what: str, sealed: bool) -> None:
    store, data = filled(path, pool), BLOBS[what](pool)
    sum_ = checksum("times three", data) if sealed else bytes(16)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tuition_blobs SET payload = ?, checksum = ? WHERE id = 4", (data, sum_))
    with pytest.raises(UserError, match="blob 4 of the store is damaged"):
        store.ask(TEACHER, pool, budget=100)
    with pytest.raises(UserError, match="blob 4 of the store is damaged"):
        export(store, path.parent / "out")
    found = verify(store)
    assert (found.intact, len(found.problems)) == (90, 1)
    assert "blob 4" in found.problems[0]
    assert drop_damaged(store) == 10
    assert verify(store).problems == ()
    assert store.ask(TEACHER, pool, budget=110).accounts == Accounts(paid=10, served=90)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"logits": 3}', '{"logits": ["float32", ["a"]]}', "\x00"])
def test_a_list_of_outputs_that_cannot_be_read_is_damage(path: Path, pool: Pool, text: str) -> None:
    store = filled(path, pool)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tuition_layouts SET outputs = ?", (text,))
    with pytest.raises(UserError, match="damaged"):
        store.ask(TEACHER, pool, budget=100)
    assert len(verify(store).problems) == 10
    drop_damaged(store)
    assert verify(store).problems == ()
    assert store.ask(TEACHER, pool, budget=200).accounts == Accounts(paid=100)


# -- imports -----------------------------------------------------------------------------------------------------------


def rewrite(folder: Path, data: bytes | None = None, about: Any = None, **columns: Any) -> None:
    """An export whose index fits its files, but that holds something else."""
    table = pq.read_table(folder / "responses.parquet")
    told = json.loads(table.schema.metadata[b"tuition"]) if about is None else about
    rows = table.to_pydict()
    if data is not None:
        from tuition.store.transport import _digest

        (folder / "responses-00000.safetensors").write_bytes(data)
        rows["checksum"] = [_digest(data)] * len(rows["checksum"])
    rows |= columns
    schema = table.schema.with_metadata({"tuition": told if isinstance(told, str) else json.dumps(told)})
    pq.write_table(pa.table(rows, schema=schema), folder / "responses.parquet", row_group_size=len(rows["file"]))


@pytest.fixture
def exported(path: Path, pool: Pool) -> Path:
    folder = path.parent / "export"
    export(filled(path, pool), folder)
    return folder


def blob(pool: Pool, logits: torch.Tensor, **more: torch.Tensor) -> bytes:
    inputs = torch.frombuffer(bytearray(b"".join(pool.digests)), dtype=torch.uint8).view(-1, 16)
    return save({"logits": logits, "input_digests": inputs, **more})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda pool: {"data": blob(pool, torch.full((100, 3), torch.nan))}, "NaN or infinity; nothing of it"),
        (lambda pool: {"data": blob(pool, torch.full((100, 3), torch.inf).half())}, "NaN or infinity"),
        (lambda pool: {"data": blob(pool, torch.zeros(99, 3))}, "does not hold answers"),
        (lambda pool: {"data": blob(pool, torch.zeros(100, 3, dtype=torch.int32))}, "does not hold answers"),
        (lambda pool: {"data": blob(pool, torch.zeros(100, 3), __metadata__=torch.zeros(100, 1))}, "does not hold"),
        (lambda pool: {"data": blob(pool, torch.zeros(100, 0))}, "of shape"),
        (lambda pool: {"data": b"not safetensors" * 200}, "does not hold answers"),
        (lambda pool: {"row": list(range(100))[::-1]}, "does not belong to"),
        (lambda pool: {"file": ["../../etc/passwd"] * 100}, "missing or damaged"),
        (lambda pool: {"file": ["a", "b"] * 50}, "cannot be taken"),
        (lambda pool: {"fingerprint": ["another"] * 100}, "does not say whose answers"),
        (lambda pool: {"about": []}, "no complete export"),
        (lambda pool: {"about": {"times three": {"names": []}}}, "no complete export"),
        (lambda pool: {"about": {"times three": {"names": ["x" * 1000]}}}, "no complete export"),
        (lambda pool: {"about": {"times three": {"names": ["a\x1b[2J"]}}}, "no complete export"),
        (lambda pool: {"about": {"times three": 3}}, "no complete export"),
        (lambda pool: {"about": "{"}, "no complete export"),
    ],
)
def test_an_export_that_is_not_what_it_says(
    exported: Path, pool: Pool, change: Callable[[Pool], Any], match: str
) -> None:
    rewrite(exported, **change(pool))
    store = ResponseStore(f"{exported}.db")
    with pytest.raises(UserError, match=match):
        import_(store, exported)
    assert sum(found.responses for found in usage(store)) == 0


def test_an_index_that_announces_more_than_there_is(exported: Path) -> None:
    """A hundred million rows of one value take a few kilobytes in the file, and gigabytes outside of it."""
    count = 100_000_000
    table = pq.read_table(exported / "responses.parquet")
    one = {name: table.column(name)[0] for name in table.column_names}
    columns = [
        pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()).take(pa.array([0] * 1000)), pa.array([value.as_py()]))
        for value in one.values()
    ]
    few = pa.table(columns, names=list(one)).replace_schema_metadata(table.schema.metadata)
    with pq.ParquetWriter(exported / "responses.parquet", few.schema) as writer:
        writer.write_table(pa.concat_tables([few] * 1000), row_group_size=count)
    with pytest.raises(UserError, match="announces more than its files hold"):
        import_(ResponseStore(f"{exported}.db"), exported)


def test_a_link_or_a_pipe_in_an_export_is_not_read(exported: Path) -> None:
    file = exported / "responses-00000.safetensors"
    file.rename(exported.parent / "elsewhere")
    file.symlink_to(exported.parent / "elsewhere")
    with pytest.raises(UserError, match="missing or damaged"):
        import_(ResponseStore(f"{exported}.db"), exported)
    (exported / "responses.parquet").unlink()
    import os

    os.mkfifo(exported / "responses.parquet")
    with pytest.raises(UserError, match="no complete export"):
        import_(ResponseStore(f"{exported}.db"), exported)


def test_an_import_takes_no_name_from_a_teacher_of_the_users(exported: Path, pool: Pool, tmp_path: Path) -> None:
    """Whether the user's teacher of that name was asked before the import, or is asked after it."""
    mine = teachers.from_callable(lambda x: -right(x), fingerprint="mine", name="times", code="")
    before = ResponseStore(str(tmp_path / "before.db"))
    before.ask(mine, pool[:10], budget=100)
    with pytest.raises(UserError, match="'times' stands for another teacher"):
        import_(before, exported)

    after = ResponseStore(str(tmp_path / "after.db"))
    assert import_(after, exported).responses == 100
    assert after.plan(mine, pool).new == 100
    transfer = after.ask(mine, pool, budget=100)
    assert torch.equal(transfer.responses["logits"], -right(pool.inputs))
    assert {found.fingerprint: found.names for found in usage(after)} == {
        "times three": ("times (imported 1)",),
        "mine": ("times",),
    }
    # The imported answers are still there for the teacher whose they are, by a name that is free.
    same = teachers.from_callable(right, fingerprint="times three", name="other", code="")
    assert after.ask(same, pool, budget=0).accounts == Accounts(served=100)


def test_an_import_gives_no_further_name_to_a_teacher_of_the_users(exported: Path, pool: Pool, tmp_path: Path) -> None:
    store = ResponseStore(str(tmp_path / "mine.db"))
    store.ask(TEACHER, pool[:10], budget=100)
    rewrite(exported, about={"times three": {"names": ["gpt", "times"]}})
    assert import_(store, exported).responses == 90
    assert [found.names for found in usage(store)] == [("times",)]
    shutil.rmtree(exported)
