"""Usage, asking again, pruning, moving, and maps."""

import json
import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tuition import teachers
from tuition.cli import main as cli
from tuition.data import Accounts, Crop, Pool, from_tensors
from tuition.errors import UserError
from tuition.store import (
    BudgetError,
    ResponseStore,
    TeacherError,
    drop_damaged,
    export,
    import_,
    maps_bytes,
    prune,
    reask,
    recompute,
    usage,
    verify,
)


def right(inputs: torch.Tensor) -> torch.Tensor:
    return inputs * torch.tensor([1.0, 2.0, 3.0])


TEACHER = teachers.from_callable(right, fingerprint="times three", name="times", code="")
MAPS = teachers.from_callable(
    lambda x: {"logits": x.expand(-1, 5) / 7, "block.2": x.view(-1, 1, 1, 1).expand(-1, 2, 3, 3) / 7},
    fingerprint="maps",
    name="maps",
)


def test_usage_tells_what_is_stored_and_what_it_cost(url: str, pool: Pool) -> None:
    store = ResponseStore(url)
    assert usage(store) == []
    store.ask(TEACHER, pool[:40], budget=40, cost_per_call=0.25)
    store.ask(teachers.from_callable(right, fingerprint="times three", name="again", code=""), pool[:50], budget=50)
    store.ask(MAPS, pool[:10], budget=10)
    times, maps = usage(store)
    assert (times.names, times.fingerprint, times.responses) == (("again", "times"), "times three", 50)
    assert (times.accounts, times.cost) == (Accounts(paid=50, served=40), 10.0)
    assert (maps.names, maps.accounts, maps.cost) == (("maps",), Accounts(paid=10), 0.0)
    assert 10 * (5 * 4 + 18 * 2 + 16) < maps.bytes < 10 * (5 * 4 + 18 * 2 + 16) + 400


def test_verify_reads_everything(url: str, pool: Pool) -> None:
    store = ResponseStore(url)
    store.ask(TEACHER, pool, budget=100, batch_size=7)
    store.ask(MAPS, pool, budget=100, batch_size=40)
    found = verify(store)
    assert (found.responses, found.intact, found.problems) == (200, 200, ())


def test_a_silently_changed_teacher_is_found(url: str, pool: Pool) -> None:
    store = ResponseStore(url)
    store.ask(TEACHER, pool[:60], budget=60)
    same = reask(store, TEACHER, pool, count=20, budget=80, seed=0, batch_size=8)
    assert (same.inputs, same.difference, same.accounts) == (20, {"logits": 0.0}, Accounts(paid=20))

    drifted = teachers.from_callable(
        lambda x: right(x) + 0.125 * (x > 2), fingerprint="times three", name="times", code=""
    )
    with pytest.raises(BudgetError, match="20 new calls do not fit"):
        reask(store, drifted, pool, count=20, budget=99, seed=0)
    changed = reask(store, drifted, pool, count=20, budget=100, seed=0)
    assert changed.difference == {"logits": 0.125}
    assert store.accounts() == Accounts(paid=100)
    # Nothing stored was replaced, and the draw repeats by its seed.
    assert torch.equal(store.ask(TEACHER, pool[:60], budget=0).responses["logits"], right(pool.inputs[:60]))

    with pytest.raises(UserError, match="cannot ask 61 inputs again where 60 of the pool are stored"):
        reask(store, TEACHER, pool, count=61, budget=1000, seed=0)
    narrow = teachers.from_callable(lambda x: x, fingerprint="times three", name="times", code="")
    with pytest.raises(TeacherError, match="does not answer with the logits that are stored"):
        reask(store, narrow, pool, count=4, budget=104, seed=0)
    assert store.accounts().paid == 104


def test_prune_forgets_answers_but_not_what_they_cost(url: str, pool: Pool) -> None:
    store = ResponseStore(url)
    store.ask(TEACHER, pool, budget=100)
    store.ask(MAPS, pool, budget=100)
    assert prune(store, "times") == 100
    assert store.plan(TEACHER, pool).new == 100
    assert store.accounts("times") == Accounts(paid=100)
    with pytest.raises(BudgetError):
        store.ask(TEACHER, pool, budget=100)
    assert store.ask(MAPS, pool, budget=100).accounts == Accounts(served=100)
    with pytest.raises(UserError, match="knows no teacher 'nobody'"):
        prune(store, "nobody")


def test_prune_gives_the_space_back(path: Path, pool: Pool) -> None:
    store = ResponseStore(str(path))
    wide = teachers.from_callable(lambda x: x.expand(-1, 5000), fingerprint="wide", name="wide")
    store.ask(wide, pool, budget=100)
    assert path.stat().st_size > 2_000_000
    prune(store, "wide")
    assert path.stat().st_size < 200_000


def test_prune_waits_for_nobody(path: Path, pool: Pool) -> None:
    store = ResponseStore(str(path))

    def meddle(inputs: torch.Tensor) -> torch.Tensor:
        with pytest.raises(UserError, match="is being asked now"):
            prune(store, "times")
        return right(inputs)

    store.ask(teachers.from_callable(meddle, fingerprint="times three", name="times", code=""), pool, budget=100)
    assert verify(store).intact == 100


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_export_and_import_lose_nothing(url: str, pool: Pool, tmp_path: Path, dtype: str) -> None:
    first = ResponseStore(url, dtype=dtype)
    mixed = from_tensors(torch.cat([pool.inputs / 3, pool.inputs * 1000]))  # float16 cannot hold them all
    for teacher in (TEACHER, MAPS):
        first.ask(teacher, mixed, budget=200, batch_size=33, cost_per_call=0.5)
    assert export(first, tmp_path / "all").responses == 398  # 0 is in the pool twice

    second = ResponseStore(f"{tmp_path}/second.db")
    second.ask(TEACHER, mixed[:50], budget=50)
    moved = import_(second, tmp_path / "all")
    assert (moved.responses, moved.known) == (348, 50)
    for teacher in (TEACHER, MAPS):
        before, after = first.ask(teacher, mixed, budget=0), second.ask(teacher, mixed[50:], budget=0)
        assert after.accounts.paid == 0
        for name, value in before.responses.items():
            assert torch.equal(value[50:], after.responses[name])
            assert value.dtype == after.responses[name].dtype
    assert [(found.imported, found.accounts.paid) for found in usage(second)] == [(149, 50), (199, 0)]
    assert verify(second).problems == ()
    assert import_(second, tmp_path / "all").responses == 0


def test_an_export_is_read_by_others(path: Path, pool: Pool, tmp_path: Path) -> None:
    """With pyarrow and safetensors alone."""
    store = ResponseStore(str(path))
    store.ask(TEACHER, pool, budget=100, batch_size=9)
    store.ask(MAPS, pool, budget=100, batch_size=9)
    assert export(store, tmp_path / "one", teacher="times").responses == 100
    table = pq.read_table(tmp_path / "one" / "responses.parquet")
    about = json.loads(table.schema.metadata[b"tuition"])
    assert about["times three"]["names"] == ["times"]
    assert about["times three"]["paid"] == 100
    answers = load_file(tmp_path / "one" / "responses-00000.safetensors")["logits"]
    by_digest = {row["digest"]: answers[row["row"]] for row in table.to_pylist()}
    assert torch.equal(torch.stack([by_digest[digest] for digest in pool.digests]), right(pool.inputs))


def test_exports_that_cannot_be_taken(path: Path, pool: Pool, tmp_path: Path) -> None:
    store, folder = ResponseStore(str(path)), tmp_path / "out"
    with pytest.raises(UserError, match="nothing to export"):
        export(store, folder)
    store.ask(TEACHER, pool, budget=100)
    export(store, folder)
    with pytest.raises(UserError, match="holds an export already"):
        export(store, folder)
    with pytest.raises(UserError, match="holds no complete export"):
        import_(store, tmp_path)

    def refused(name: str, match: str, teacher: Any = None) -> None:
        other = ResponseStore(f"{tmp_path}/{name}.db")
        if teacher is not None:
            other.ask(teacher, pool[:5], budget=5)
        with pytest.raises(UserError, match=match):
            import_(other, folder)
        assert sum(found.imported for found in usage(other)) == 0

    other = teachers.from_callable(right, fingerprint="another", name="times")
    refused("taken", "'times' stands for another teacher", other)
    narrow = teachers.from_callable(lambda x: x, fingerprint="times three", name="narrow", code="")
    refused("narrow", "logits 3 wide, where those stored are 1 wide", narrow)
    file = folder / "responses-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    refused("flipped", "is missing or damaged")
    file.unlink()
    refused("missing", "a file is missing or damaged")
    index = (folder / "responses.parquet").read_bytes()
    (folder / "responses.parquet").write_bytes(index[: len(index) // 2])
    refused("cut", "holds no complete export")


def test_a_damaged_store_is_not_exported(path: Path, pool: Pool, tmp_path: Path) -> None:
    store = ResponseStore(str(path))
    store.ask(TEACHER, pool, budget=100)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE tuition_blobs SET payload = zeroblob(length(payload)) WHERE id = 1")
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match="damaged"):
        export(store, tmp_path / "out")
    assert not (tmp_path / "out" / "responses.parquet").exists()
    assert drop_damaged(store) == 64
    assert export(store, tmp_path / "out").responses == 36


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU())
        self.head = torch.nn.Linear(4, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(inputs).mean((2, 3)))


def test_maps_are_recomputed_for_the_views_that_were_asked(path: Path) -> None:
    torch.manual_seed(0)
    model, store = Net(), ResponseStore(str(path))
    generator = torch.Generator().manual_seed(1)
    images = from_tensors(torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=generator))
    pool = images.view(Crop(padding=2), seed=3)
    teacher = teachers.from_torch(model)
    transfer = store.ask(teacher, pool, budget=10)
    full = recompute(teacher, transfer, ["body.0", "body"], batch_size=4)
    expected = model.body[0](pool.asked().float() / 255)
    torch.testing.assert_close(full.responses["body.0"].float(), expected, rtol=1e-2, atol=1e-2)
    assert torch.equal(full.responses["body"], full.responses["body.0"].relu())
    assert full.responses["body"].dtype == torch.bfloat16
    assert maps_bytes(teacher, transfer, ["body.0", "body"]) == 2 * full.responses["body"].nbytes
    assert store.accounts() == Accounts(paid=10)

    asked = ResponseStore(f"{path}2").ask(teachers.from_torch(model, layers=["body"]), pool, budget=10)
    assert torch.equal(asked.responses["body"], full.responses["body"])


def test_maps_of_another_teacher_are_refused(path: Path) -> None:
    torch.manual_seed(0)
    model, added = Net(), SimpleNamespace(value=0.0)
    model.forward = lambda inputs: Net.forward(model, inputs) + added.value
    pool = from_tensors(
        torch.zeros(3, 3, 8, 8, dtype=torch.uint8) + torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1)
    )
    transfer = ResponseStore(str(path)).ask(teachers.from_torch(model), pool, budget=3)
    with pytest.raises(UserError, match="another teacher's"):
        recompute(teachers.from_torch(Net()), transfer, ["body"])
    added.value = 0.1  # a change that no digest can see
    with pytest.raises(UserError, match=r"answers logits up to 0\.1 away"):
        recompute(teachers.from_torch(model), transfer, ["body"])


def test_a_folder_whose_name_is_not_text(path: Path, pool: Pool, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"ex\xffport")
    store = ResponseStore(str(path))
    store.ask(TEACHER, pool, budget=100)
    export(store, folder)
    assert import_(ResponseStore(f"{tmp_path}/other.db"), folder).responses == 100


@pytest.mark.parametrize("name", [b"plain", b"no\xfftext", b"absent\xff"])
def test_an_import_of_no_export_makes_no_store(name, tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / os.fsdecode(name)
    if not name.startswith(b"absent"):
        folder.mkdir()
    monkeypatch.setattr("sys.argv", ["tuition", "store", "import", f"{tmp_path}/new.db", str(folder)])
    assert cli.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no complete export" in line
    assert not (tmp_path / "new.db").exists()
