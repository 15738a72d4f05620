"""The demo, made small, and the paid mixes."""

import json

import torch

from tuition import ResponseStore, data, teachers
from tuition.pipeline.paid_mixes import add_paid_mixes
from tuition.studies import demo


def test_a_small_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "CALLS", (20, 40))
    monkeypatch.setattr(demo, "METHODS", {name: {"method": name} for name in ("ce", "ckd")})
    seen = []
    summary = demo.run(tmp_path, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert {(r["method"], r["calls"], r["seeds"]) for r in summary["results"]} == {
        ("ce", 20, 3),
        ("ce", 40, 3),
        ("ckd", 20, 3),
        ("ckd", 40, 3),
    }
    mean = {(r["method"], r["calls"]): r["mean"] for r in summary["results"]}
    assert mean["ckd", 40] > mean["ce", 40] > 30
    assert summary["teacher_accuracy"] > 97
    # 40 calls a seed: 20 of the 40 were paid when the first 20 were asked.
    assert summary["accounts"]["paid"] == 3 * 40
    assert summary["accounts"]["unknown"] == summary["accounts"]["failed"] == 0
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_share_no_input():
    rows = [set(demo.part(seed).digests) for seed in range(demo.SEEDS)]
    everything = data.load("digits").digests
    assert sum(len(demo.part(seed)) for seed in range(demo.SEEDS)) == len(everything)
    repeats = len(everything) - len(set(everything))
    assert sum(map(len, rows)) - len(set.union(*rows)) <= repeats


def test_paid_mixes_cost_a_call_each_and_keep_the_uncertain(tmp_path):
    torch.manual_seed(0)
    teacher = teachers.from_torch(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), name="t")
    pool = data.load("digits").sample(30, seed=0)
    store = ResponseStore(str(tmp_path / "r.db"))
    transfer = store.ask(teacher, pool, budget=30)
    mixed = add_paid_mixes(store, teacher, transfer, 20, seed=0)
    assert store.accounts("t").paid == 50
    assert mixed.accounts.paid == 50
    assert len(mixed) == 40
    torch.testing.assert_close(mixed.responses["logits"], teacher(mixed.pool.inputs)["logits"])
    targets = mixed.responses["targets"]
    torch.testing.assert_close(targets.sum(1), torch.ones(40))
    assert torch.equal(targets[:30].argmax(1), pool.labels)
    assert ((targets > 0).sum(1) <= 2).all()
    # Asking again is free, and gives the same.
    again = add_paid_mixes(store, teacher, transfer, 20, seed=0)
    assert again.accounts.paid == 30
    assert torch.equal(again.pool.inputs, mixed.pool.inputs)


def test_the_answers_to_mixes_are_not_looked_at_again(tmp_path):
    """A mix has no one class, so that a teacher that passed may look bad on mixes."""
    asked = []

    def answer(inputs):  # right on the inputs themselves, and constant on mixes
        asked.append(len(inputs))
        classes = [known.get(bytes(image.numpy().tobytes()), 0) for image in inputs]
        return {"logits": 9.0 * torch.nn.functional.one_hot(torch.tensor(classes), 10)}

    pool = data.load("digits").sample(200, seed=0)
    known = {image.numpy().tobytes(): int(label) for image, label in zip(pool.inputs, pool.labels, strict=True)}
    store, teacher = ResponseStore(str(tmp_path / "r.db")), teachers.from_callable(answer, fingerprint="1", name="t")
    transfer = store.ask(teacher, pool, budget=1000)
    assert len(add_paid_mixes(store, teacher, transfer, 400, seed=0)) == 400
    assert sum(asked) == store.accounts("t").paid > 500
