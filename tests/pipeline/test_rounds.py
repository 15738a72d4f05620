"""Asking in rounds: what is chosen, what is paid, and what a run in rounds leaves behind."""

import csv
import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tuition import ResponseStore, data, load, teachers
from tuition.data import Pool
from tuition.data.select import BY_OUTPUTS as BY_LOGITS
from tuition.errors import UserError
from tuition.pipeline import job, until
from tuition.pipeline.parts import BY_OUTPUTS
from tuition.pipeline.rounds import resolved, sizes
from tuition.pipeline.settings import Asking, DistillSettings, TransferSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.watch import Watch
from tuition.store import BudgetError
from tuition.teachers import Refused, Teacher

CLASSES = 3


def points(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors (n, 6) of three overlapping classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    return torch.randn(n, 6, generator=generator) + 2 * torch.eye(CLASSES, 6)[labels], labels


POOL = data.from_tensors(*points(120, 0), name="points")


class Counting:
    """A linear teacher that notes what it was asked, and may refuse some."""

    def __init__(self, refuses: Tensor | None = None) -> None:
        self.asked: list[Tensor] = []
        self.refuses = refuses

    def __call__(self, inputs: Tensor) -> dict[str, Tensor]:
        if self.refuses is not None and any(bool((row == self.refuses).all(1).any()) for row in inputs):
            raise Refused("it is about something else")
        self.asked += list(inputs)
        return {"logits": 3 * inputs[:, :CLASSES]}

    @property
    def teacher(self) -> Teacher:
        return teachers.from_callable(self, fingerprint="linear, version 1", name="linear")


class Made(Sources):
    def __init__(self, teacher: Teacher, pool: Pool = POOL) -> None:
        super().__init__()
        self.made, self.given = teacher, pool

    def teacher(self, settings: Asking) -> Teacher:
        return self.made

    def pool(self, *arguments: Any, **options: Any) -> Pool:
        return self.given


def settings(folder: Path, **changes: Any) -> DistillSettings:
    values: dict[str, Any] = {"teacher": "linear", "calls": 32, "rounds": 3, "student": "mlp_16", "epochs": 4}
    values |= {"store": str(folder / "r.db"), "test": None, "batch_size": 8, "ask_batch": 1}
    return DistillSettings.of(values | changes)


def chosen(run: Path) -> list[list[int]]:
    """The rows of each round."""
    paths = sorted((run / "rounds").glob("asked-*.csv"))
    return [[int(line["row"]) for line in csv.DictReader(path.open())] for path in paths]


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_each_round_asks_about_as_many_as_all_before(tmp_path: Path) -> None:
    asked = Counting()
    run = job.run(settings(tmp_path), tmp_path / "run", Made(asked.teacher))
    rows = chosen(tmp_path / "run")
    assert [len(part) for part in rows] == [8, 8, 16]
    assert len({row for part in rows for row in part}) == 32
    assert {tuple(row.tolist()) for row in asked.asked} == {
        tuple(POOL.inputs[row].tolist()) for part in rows for row in part
    }
    assert len(asked.asked) == run.accounts.paid == 32
    assert run.measured["validation"] == "accuracy on 8 labelled inputs"
    record = json.loads((tmp_path / "run/run.json").read_text())
    table = list(csv.DictReader((tmp_path / "run/rounds.csv").open()))
    assert [row["calls"] for row in record["rounds"]] == [int(row["calls"]) for row in table] == [8, 16, 32]
    assert [row["paid"] for row in run.rounds] == [8, 16, 32]
    assert run.directory == tmp_path / "run"
    assert run.rounds == record["rounds"]
    assert (tmp_path / "run/rounds.png").read_bytes().startswith(b"\x89PNG")
    assert same_weights(load(tmp_path / "run"), run.student)
    again = job.run(settings(tmp_path), tmp_path / "run", Made(asked.teacher))
    assert len(asked.asked) == 32
    assert again.results() == run.results()
    assert again.rounds == run.rounds


def test_random_rounds_end_as_one_round_does(tmp_path: Path) -> None:
    """The same inputs in the same order, so the same weights; and nothing is left where no folder is named."""
    once = job.run(settings(tmp_path, rounds=1), None, Made(Counting().teacher))
    rounds = job.run(settings(tmp_path, select="random"), None, Made(Counting().teacher))
    assert same_weights(once.student, rounds.student)
    assert rounds.directory is None
    assert [path.name for path in tmp_path.iterdir()] == ["r.db"]


def test_a_round_is_chosen_by_the_student_of_the_one_before(tmp_path: Path) -> None:
    """By a loop over the outputs of the student in the folder of the round."""
    run = tmp_path / "run"
    job.run(settings(tmp_path, select="margin", rounds=2), run, Made(Counting().teacher))
    first, second = chosen(run)
    held_out = torch.randperm(120, generator=torch.Generator().manual_seed(0))[-8:].tolist()
    outputs = load(run / "rounds/1").outputs(POOL.inputs).double().numpy()
    margins = {}
    for row in set(range(120)) - set(first) - set(held_out):
        powers = np.exp(2 * outputs[row])
        largest = sorted(powers / powers.sum())
        margins[row] = largest[-1] - largest[-2]
    assert set(second) == set(sorted(margins, key=margins.get)[:16])  # type: ignore[arg-type]


def test_without_labels_the_same_further_answers_validate_every_round(tmp_path: Path) -> None:
    asked, unlabelled = Counting(), POOL.without_labels
    run = job.run(settings(tmp_path, labels=False), tmp_path / "run", Made(asked.teacher, unlabelled))
    assert len(asked.asked) == run.accounts.paid == 32 + 8
    assert [row["paid"] for row in run.rounds] == [16, 24, 40]
    assert [row["validation_inputs"] for row in run.rounds] == [8, 8, 8]
    assert run.measured["validation"] == "agreement with the teacher on 8 further inputs"
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    assert not {row for part in chosen(tmp_path / "run") for row in part} & set(order[-8:].tolist())


def test_refused_inputs_are_counted_and_not_replaced(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    job.run(settings(plain, select="random"), plain / "run", Made(Counting().teacher))
    rows = chosen(plain / "run")
    refuses = POOL.inputs[torch.tensor([rows[0][3], rows[2][0], rows[2][5]])]
    asked = Counting(refuses)
    run = job.run(settings(tmp_path, select="random"), tmp_path / "run", Made(asked.teacher))
    assert chosen(tmp_path / "run") == rows
    assert [(row["calls"], row["refused"]) for row in run.rounds] == [(8, 1), (16, 1), (32, 3)]
    assert run.accounts.paid == len(asked.asked) == 29
    assert run.teacher_inputs == 29
    named = [json.loads(line) for line in (tmp_path / "run/refused.jsonl").read_text().splitlines()]
    assert [line["row"] for line in named] == [3, 16, 21]
    assert {line["reason"] for line in named} == {"it is about something else"}


def test_the_budget_is_that_of_all_rounds(tmp_path: Path) -> None:
    asked = Counting()
    with pytest.raises(BudgetError, match="32 new calls do not fit in the budget of 31"):
        job.run(settings(tmp_path, budget=31), tmp_path / "run", Made(asked.teacher))
    assert not asked.asked
    ResponseStore(tmp_path / "r.db").ask(asked.teacher, data.from_tensors(points(2, 9)[0]), budget=2)
    with pytest.raises(BudgetError, match="may need 32 new calls, 2 are paid, and the budget is 33"):
        job.run(settings(tmp_path, budget=33), tmp_path / "run", Made(asked.teacher))
    assert not (tmp_path / "run").exists(), "so that the same folder takes another budget"
    run = job.run(settings(tmp_path, budget=34), tmp_path / "run", Made(asked.teacher))
    assert (run.accounts.paid, len(asked.asked)) == (32, 34)


class StopsAfter(Watch):
    """Raises when a round has ended."""

    def __init__(self, number: int) -> None:
        self.number = number

    def round(self, row: Mapping[str, Any]) -> None:
        if row["round"] == self.number:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("start", ["fresh", "warm"])
def test_a_stopped_run_resumes_as_it_was_chosen(tmp_path: Path, start: str) -> None:
    asked, out = Counting(), tmp_path / "run"
    wanted = settings(tmp_path, round_start=start, budget=32)
    with pytest.raises(RuntimeError, match="stopped"):
        job.run(wanted, out, Made(asked.teacher), StopsAfter(2))
    assert len(asked.asked) == 16
    with pytest.raises(UserError, match=r"holds a run with other settings \(select: 'diverse-margin' there"):
        job.run(wanted.changed(select="entropy"), out, Made(asked.teacher))
    with pytest.raises(UserError, match="holds a run that asks in rounds, and is not finished"):
        job.run(settings(tmp_path, rounds=1), out, Made(asked.teacher))
    run = job.run(wanted, out, Made(asked.teacher))
    assert len(asked.asked) == 32
    assert run.accounts.paid == 32
    other = tmp_path / "other"
    whole = job.run(settings(other, round_start=start), other / "run", Made(Counting().teacher))
    assert chosen(out) == chosen(other / "run")
    assert same_weights(run.student, whole.student)


def test_inputs_that_changed_meanwhile_are_noticed(tmp_path: Path) -> None:
    asked, out = Counting(), tmp_path / "run"
    with pytest.raises(RuntimeError, match="stopped"):
        job.run(settings(tmp_path), out, Made(asked.teacher), StopsAfter(1))
    with pytest.raises(UserError, match=r"asked-1\.csv names inputs that are not those of other"):
        job.run(settings(tmp_path), out, Made(asked.teacher, data.from_tensors(*points(120, 5), name="other")))


def test_a_warm_round_begins_where_the_last_one_ended(tmp_path: Path) -> None:
    losses = {}
    for start in ("fresh", "warm"):
        out = tmp_path / start
        job.run(settings(tmp_path, round_start=start, epochs=40, rounds=2), out, Made(Counting().teacher))
        first = json.loads((out / "rounds/1/run.json").read_text())["results"]["validation"]
        with (out / "metrics.csv").open(newline="") as file:
            losses[start] = float(next(csv.DictReader(file))["loss"]), first
    assert losses["warm"][1] == losses["fresh"][1]
    assert losses["warm"][0] < 0.7 * losses["fresh"][0]


def test_more_epochs_continue_the_last_round(tmp_path: Path) -> None:
    asked, out = Counting(), tmp_path / "run"
    before = job.run(settings(tmp_path), out, Made(asked.teacher))
    after = job.run(settings(tmp_path, epochs=9), out, Made(asked.teacher))
    assert (before.epochs, after.epochs) == (4, 9)
    assert [row["epochs"] for row in after.rounds] == [4, 4, 9]
    assert len(asked.asked) == 32
    assert json.loads((out / "run.json").read_text())["rounds"] == after.rounds


def test_texts_are_chosen_by_the_student_after_a_random_round(tmp_path: Path) -> None:
    words = ["good", "bad", "fine", "poor", "great", "awful"]
    texts = [f"{words[i % 6]} {words[(i * 5 + 1) % 6]} number {i}" for i in range(120)]
    pool = data.from_tensors(texts, torch.arange(120) % 2)
    marks = teachers.from_callable(
        lambda batch: {"logits": torch.tensor([[float(len(text)), 1.0 + text.count("o")] for text in batch])},
        fingerprint="marks",
        name="marks",
    )
    run = job.run(settings(tmp_path, student="bag_8", rounds=2, epochs=2), tmp_path / "run", Made(marks, pool))
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    first, second = chosen(tmp_path / "run")
    assert first == order[:16].tolist()
    assert len(set(second)) == 16
    assert run.accounts.paid == 32


def test_embeddings_are_covered_and_not_doubted(tmp_path: Path) -> None:
    project = teachers.from_callable(
        lambda batch: {"embedding": batch[:, :4] * 2.0}, fingerprint="projection", name="projection"
    )
    made = Made(project, POOL.without_labels)
    options = {"method": "mse", "labels": False, "rounds": 2}
    run = job.run(settings(tmp_path, select="coverage", **options), tmp_path / "run", made)
    assert [row["at_least"] for row in run.rounds] == [None, None]
    with pytest.raises(UserError, match="embeddings alone; use select: coverage"):
        job.run(settings(tmp_path / "other", **options), tmp_path / "other", made)


def test_paid_mixes_are_asked_about_once(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (120, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pool = data.from_tensors(images, torch.arange(120) % CLASSES)
    asked: list[int] = []

    def answer(batch: Tensor) -> dict[str, Tensor]:
        asked.append(len(batch))
        return {"logits": batch.float().flatten(1)[:, :CLASSES] / 50}

    made = Made(teachers.from_callable(answer, fingerprint="pixels", name="pixels"), pool)
    values = {"student": "cnn_4", "paid_mixes": 10, "check_answers": False, "budget": 42, "epochs": 2}
    run = job.run(settings(tmp_path, **values), tmp_path / "run", made)
    assert run.accounts.paid == sum(asked)
    assert run.accounts.paid + run.accounts.served == 42  # a mix may be an image that was asked about
    assert [row["paid"] for row in run.rounds] == [8, 16, sum(asked)]
    assert sum(asked) > 32
    with pytest.raises(BudgetError, match="may need 42 new calls"):
        job.run(settings(tmp_path / "less", **values | {"budget": 41}), tmp_path / "less/run", made)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_the_sizes_of_rounds(tmp_path: Path) -> None:
    assert sizes(settings(tmp_path, calls=80, rounds=4)) == [10, 20, 40, 80]
    assert sizes(settings(tmp_path, calls=75, rounds=3)) == [19, 38, 75]
    for calls in (5, 20, 21, 50, 333, 2000, 100_000):
        growing = sizes(settings(tmp_path, calls=calls, rounds=1, until=90))
        assert growing[0] == min(calls, max(20, calls // 64))
        assert growing[-1] == calls
        factors = [b / a for a, b in pairwise(growing)]
        assert all(1 < factor <= 1.5**1.5 + 0.1 for factor in factors)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    assert BY_OUTPUTS == BY_LOGITS
    assert settings(tmp_path).ask.select == "diverse-margin"
    assert settings(tmp_path, rounds=1).ask.select == "random"
    assert settings(tmp_path, select="random").ask.select == "random"
    for values, message in (
        ({"rounds": 1, "select": "margin"}, "chooses by the student of the round before"),
        ({"rounds": 6}, "need 64 calls or more, not 32"),
        ({"until": 90, "paid_mixes": 4}, "leave one out"),
    ):
        with pytest.raises(UserError, match=message):
            settings(tmp_path, **values)
    with pytest.raises(UserError, match="give --budget, or --calls"):
        DistillSettings.of({"until": 90})
    with pytest.raises(UserError, match="use `tuition distill` with --rounds"):
        TransferSettings.of({"select": "coverage"})
    assert TransferSettings.of({"select": "coverage", "features": "run"}).ask.select == "coverage"


# -- until a target ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("percent", "inputs"), [(90.0, 500), (50.0, 20), (100.0, 40), (0.0, 30), (97.5, 80)])
def test_the_lower_bound_is_wilsons(percent: float, inputs: int) -> None:
    """The share p below the measured one for which that lies 1.645 standard deviations of p above p."""
    low, high = 0.0, percent / 100
    for _ in range(100):
        p = (low + high) / 2
        if percent / 100 - p > 1.6449 * math.sqrt(p * (1 - p) / inputs):
            low = p
        else:
            high = p
    assert until.at_least(percent, inputs) == pytest.approx(100 * low, abs=1e-6)


def line(calls: int, validation: float, inputs: int = 400) -> dict[str, Any]:
    bound = until.at_least(validation, inputs)
    return {"calls": calls, "validation": validation, "validation_inputs": inputs, "at_least": bound, "paid": calls} | {
        "cost": "0"
    }


def test_why_rounds_end() -> None:
    rising = [line(20, 70.0), line(40, 80.0), line(80, 88.0)]
    assert until.ending(rising, 90, 1000, "accuracy") is None
    assert until.ending([*rising, line(160, 91.0)], 90, 1000, "accuracy") is None
    reached = until.ending([*rising, line(160, 93.0)], 90, 1000, "accuracy")
    assert reached is not None
    assert reached.reason == "reached"
    assert "accuracy is 93.0 % of 400 inputs, at least 90.6 % with 95 % confidence, which is above 90 %" in (
        reached.sentence
    )
    spent = until.ending([*rising, line(160, 91.0)], 90, 160, "accuracy", "All 160 inputs are asked about")
    assert spent is not None
    assert spent.reason == "spent"
    flat = [line(calls, share) for calls, share in ((20, 50.0), (40, 62.0), (80, 69.0), (160, 73.0), (320, 75.0))]
    beyond = until.ending(flat, 95, 640, "accuracy")
    assert beyond is not None
    assert beyond.reason == "out of reach"
    assert "640 calls will not reach 95 %" in beyond.sentence


def test_what_the_next_point_costs() -> None:
    def law(calls: int) -> dict[str, Any]:
        return line(calls, round(95 - 200 * calls**-0.6, 3), 4000) | {"cost": f"{calls / 100}"}

    table = [law(calls) for calls in (20, 40, 80, 160, 320)]
    wanted = (200 / (95 - table[-1]["validation"] - 1)) ** (1 / 0.6) - 320
    said = until.next_point(table)
    assert f"about {math.ceil(wanted):,} more calls, about {wanted / 100:.2g}"[:24] in said
    assert "cannot be told" in until.next_point(table[:1])
    said = until.next_point([line(20, 70.0), line(40, 80.0), line(80, 88.0)])
    assert said.startswith(
        "What one more percentage point, to 89.0 %, would cost cannot be told, because the accuracy is"
    )
    assert "target" not in said


def test_a_job_stops_at_its_target(tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Watch):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    pool = data.from_tensors(*points(2000, 0))
    asked = Counting()
    values = {"until": 70, "rounds": 1, "budget": 600, "epochs": 60, "calls": 600}
    run = job.run(settings(tmp_path, **values), tmp_path / "run", Made(asked.teacher, pool), Listening())
    assert run.rounds[-1]["at_least"] > 70
    assert all(row["at_least"] <= 70 for row in run.rounds[:-1])
    assert len(asked.asked) == run.rounds[-1]["calls"] < 600
    assert run.rounds[-1]["validation_inputs"] == 400
    assert len(said) == 1
    assert said[0].startswith(f"Stopped after {len(asked.asked)} of at most 600 inputs: validation accuracy is")
    assert json.loads((tmp_path / "run/run.json").read_text())["ending"]["reason"] == "reached"
    again = job.run(settings(tmp_path, **values), tmp_path / "run", Made(asked.teacher, pool), Listening())
    assert len(asked.asked) == run.rounds[-1]["calls"]
    assert again.rounds == run.rounds
    assert said[0] == said[1]


def test_a_job_ends_with_its_budget(tmp_path: Path) -> None:
    """Of which others have spent a part; without labels the further answers count, too."""
    asked = Counting()
    ResponseStore(tmp_path / "r.db").ask(asked.teacher, data.from_tensors(points(7, 9)[0]), budget=7)
    values = {"until": 81, "epochs": 1, "rounds": 1, "budget": 60, "calls": 60, "labels": False}
    made = Made(asked.teacher, POOL.without_labels)
    assert resolved(settings(tmp_path, **values), made).ask.calls == 48
    run = job.run(settings(tmp_path, **values), tmp_path / "run", made)
    assert len(asked.asked) == 60
    assert run.accounts.paid == 53
    assert run.rounds[-1]["calls"] == 41
    ending = json.loads((tmp_path / "run/run.json").read_text())["ending"]
    assert ending["reason"] == "spent"
    assert ending["sentence"].startswith("The budget of 60 is spent; stopped after 41 of at most 48 inputs: validation")


def test_a_job_whose_budget_is_spent_before_it_begins_is_refused(tmp_path: Path) -> None:
    """Its first round is stored, so that it would cost nothing; the second could not be asked."""
    asked = Counting()
    ResponseStore(tmp_path / "r.db").ask(asked.teacher, POOL, budget=120)
    with pytest.raises(BudgetError, match=r"120 are paid, and the budget is 120; nothing was asked"):
        job.run(settings(tmp_path, until=70, rounds=1, budget=120, calls=60), tmp_path / "run", Made(asked.teacher))
    assert len(asked.asked) == 120
    assert not (tmp_path / "run").exists(), "so that the same folder takes a larger budget"


@pytest.mark.parametrize(("inputs", "most"), [(20, 88), (24, 89), (50, 94), (100, 97), (500, 99)])
def test_the_highest_target_that_validation_inputs_can_show(inputs: int, most: int) -> None:
    """By counting inputs up, one at a time."""
    until.check_reachable(most, inputs, calls=True)
    enough = next(n for n in range(1, 10_000) if until.at_least(100, n) > most + 0.9)
    with pytest.raises(
        UserError, match=f"until {most} or less, or validate on {enough:,} inputs or more.*{4 * enough - 3:,}"
    ):
        until.check_reachable(most + 0.9, inputs, calls=True)


def test_a_target_that_cannot_be_shown_is_refused_before_a_call(tmp_path: Path) -> None:
    asked = Counting()
    values = {"until": 90, "rounds": 1, "calls": 96, "labels": False}
    with pytest.raises(UserError, match=r"with 24 inputs .* 89.9 %; .* on 25 inputs or more \(calls 97 or more\)"):
        job.run(settings(tmp_path, **values), tmp_path / "run", Made(asked.teacher, POOL.without_labels))
    assert asked.asked == []
