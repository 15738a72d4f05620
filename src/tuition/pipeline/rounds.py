"""Asking in rounds: which inputs each round asks about, and the files from which a stopped job resumes."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tuition.data import Pool, TransferSet, select
from tuition.data.transfer import rows_answered
from tuition.errors import UserError
from tuition.pipeline.checks import Checked, described
from tuition.pipeline.encoder import encoded, features_of
from tuition.pipeline.parts import UNLIMITED
from tuition.pipeline.question import Question, partition, question_about, validation_inputs, viewed
from tuition.pipeline.rounds_curve import NAME as PICTURE
from tuition.pipeline.rounds_curve import try_to_draw
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.settings_file import kept_settings
from tuition.pipeline.sources import Sources
from tuition.pipeline.until import Ending, at_least, ending, growing
from tuition.store import BudgetError, ResponseStore, address
from tuition.training import Run, Student, files
from tuition.training.preflight import pick_device

FOLDER, SETTINGS, TABLE = files.ROUNDS, "settings.json", "rounds.csv"


def sizes(settings: DistillSettings) -> list[int]:
    """How many inputs are asked about up to the end of each round, at most.

    Each round has twice as many as the one before. Where a target may end the rounds, and their number is not set, they
    grow by less (see `until.growing`).
    """
    calls, rounds = settings.ask.calls, settings.rounds
    return growing(calls) if rounds == 1 else [math.ceil(calls / 2**left) for left in reversed(range(rounds))]


def resolved(settings: DistillSettings, sources: Sources) -> DistillSettings:
    """Settings with the most inputs that may be asked about on the way to a target: what budget and pool allow."""
    if settings.until is None:
        return settings
    pool, ask, validates = sources.train_pool(settings), settings.ask, settings.data.validation is None
    calls = min(ask.calls, len(pool) * 4 // 5 if validates else len(pool))
    if validates and ask.budget is not None and not (ask.labels and pool.labels is not None):
        calls = min(calls, ask.budget * 4 // 5)  # the rest is asked about to validate on
    return settings.changed(calls=calls)


class Rounds:
    """What a job has asked about, and what it asks about next.

    In the folder, rounds/asked-1.csv names the inputs of the first round before they are asked about, and rounds/1 is
    its run. So a stopped job asks about the same inputs again, and `distill` and the store do the rest.

    Args:
        checked: as `check_distill` returns it.
        folder: of the complete run, which this process holds.

    Attributes:
        transfer: all answers so far, with the accounts and the bill of all rounds.
        validation: what to validate on, the same in every round.
        table: a line for each finished round.
        ended: whether no further round follows.
        ending: why, where a target may end the rounds.
    """

    def __init__(self, settings: DistillSettings, checked: Checked, sources: Sources, folder: Path) -> None:
        self.settings, self.checked, self.sources, self.folder = settings, checked, sources, folder
        self.sizes = sizes(settings)
        self.pool = viewed(settings, sources)
        self.rest, self.held_out = partition(
            self.pool, settings.ask.calls, validation_inputs(settings, sources), settings.data.seed
        )
        self.rows = torch.empty(0, dtype=torch.long)  # of the pool, asked about to train on
        self.transfer: TransferSet | None = None
        self.validation: Pool | TransferSet | None = None
        self.table: list[dict[str, Any]] = []
        self.ended, self.ending = False, cast("Ending | None", None)
        self.queries = 0  # inputs asked about, also to validate on
        self.described = _described(settings, checked)
        _check_settings(self.described, folder)
        published = (folder / files.RUN).exists()
        self.last = len(list((folder / FOLDER).glob("asked-*.csv"))) if published else None

    @property
    def number(self) -> int:
        """Of the round that is going on, from 1."""
        return len(self.table) + 1

    def home(self, number: int) -> Path:
        """The folder of a round's run: of the last one, once it is done, that of the complete run."""
        return self.folder if number == self.last else self.folder / FOLDER / str(number)

    @property
    def training(self) -> DistillSettings:
        """How the student of this round is trained."""
        settings, number = self.settings, self.number
        changes: dict[str, Any] = {"log_dir": None, "wandb_project": None}  # one log is of all rounds
        if settings.round_start == "warm" and number > 1:
            changes["student"] = str(self.home(number - 1))
        if number < len(self.sizes):
            changes["paid_mixes"] = 0  # they are asked about once, in the last round
        if self.last is not None and number < self.last:  # more epochs are for the last student
            there = files.read_run(self.home(number))["settings"]
            changes |= {name: there[name] for name in files.LENGTHENED}
        return settings.changed(**changes)

    def choose(self, student: Student | None) -> Question:
        """The inputs of this round, chosen by the last student, or as they were chosen before the job was stopped.

        Raises:
            UserError: the folder names other inputs; or the budget does not suffice for this and the later rounds.
        """
        path = self._asked(self.number)
        rows = self._chosen_before(path)
        if rows is None:
            count = self.sizes[self.number - 1] - len(self.rows)
            rows = self._choose(count if self.number == 1 else min(count, self._left_to_ask()), student)
        question = self._question(rows)
        self._check_budget(question, begins=self.number == 1 and not path.exists())
        if self.number == 1:
            _keep_settings(self.settings, self.described, self.folder)
        if not path.exists():
            digests = [digest.hex() for digest in self.pool[rows].digests]
            lines = [{"row": row, "digest": digest} for row, digest in zip(rows.tolist(), digests, strict=True)]
            files.write_rows(path, lines)
        self.rows = torch.cat([self.rows, rows])
        return question

    def _asked(self, number: int) -> Path:
        """The file of the inputs that were chosen for a round."""
        return self.folder / FOLDER / f"asked-{number}.csv"

    def _left_to_ask(self) -> int:
        """How many inputs the budget allows. Without a target, that was checked before the first call."""
        ask, teacher = self.settings.ask, self.checked.teacher
        if self.settings.until is None or ask.budget is None:
            return UNLIMITED
        return max(0, ask.budget - ResponseStore(ask.store).accounts(teacher).paid) // teacher.calls_per_input

    def _question(self, rows: Tensor) -> Question:
        about = partial(question_about, self.settings, self.sources, teacher=self.checked.teacher)
        if self.validation is None:
            return about(rows, self.held_out)
        return replace(about(rows, self.held_out[:0]), validation=self.validation)

    def _chosen_before(self, path: Path) -> Tensor | None:
        if not path.exists():
            return None
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
        rows = torch.tensor([int(line["row"]) for line in lines])
        there = rows.numel() and 0 <= int(rows.min()) <= int(rows.max()) < len(self.pool)
        if not there or [digest.hex() for digest in self.pool[rows].digests] != [line["digest"] for line in lines]:
            raise UserError(f"{path} names inputs that are not those of {self.pool.name}; choose another folder.")
        return rows

    def _choose(self, count: int, student: Student | None) -> Tensor:
        settings, ask, seed = self.settings, self.settings.ask, self.settings.data.seed
        asked = torch.isin(self.rest, self.rows)
        among, how = self.pool[self.rest], dict[str, Any](method=ask.select)
        if not ask.chosen_by_student:
            how["features"] = features_of(among, ask)
        elif student is None:
            how = first_choice(settings, among)
        else:
            outputs = student.to(pick_device(settings.device)).outputs(among)
            student.cpu()
            how["logits" if student.output == "logits" else "features"] = outputs
        if how["method"] == "random":  # as one draw of all would have them
            return self.rest[~asked][:count]
        return self.rest[select(among, count, **how, exclude=asked.nonzero()[:, 0], seed=seed)]

    def _check_budget(self, question: Question, *, begins: bool) -> None:
        """Refuse what this and the later rounds need, before the first call; calls of finished rounds are paid.

        A job that begins on the way to a target needs a budget left for as many inputs as its first round has, even if
        those are stored: nothing would be left for a second one.
        """
        ask, teacher = self.settings.ask, self.checked.teacher
        if ask.budget is None:
            return
        new, paid = len(set(question.inputs.digests)) * teacher.calls_per_input, 0
        if address.exists(ask.store):
            plan = ResponseStore(ask.store).plan(teacher, question.inputs)
            new, paid = plan.new, plan.paid
        if begins and self.settings.until is not None and len(self.sizes) > 1:
            new = max(new, self.sizes[0] * teacher.calls_per_input)
        if new == 0:
            return
        later = 0 if self.settings.until is not None else self.sizes[-1] - self.sizes[self.number - 1]
        most = new + later * teacher.calls_per_input + self.settings.paid_mixes
        if paid + most > ask.budget:
            raise BudgetError(
                f"these rounds may need {most:,} new calls, {paid:,} are paid, and the budget is {ask.budget:,}; "
                f"nothing was asked, raise the budget to {paid + most:,} or ask about less."
            )

    def answered(self, question: Question, further: TransferSet, validation: Pool | TransferSet) -> TransferSet:
        """Add the answers of this round; returns all so far."""
        self.validation = validation
        refused = tuple(replace(one, row=one.row + self.queries) for one in further.refused)
        self.queries += len(question.inputs)
        before = self.transfer
        if before is None:
            self.transfer = further
            return further
        if before.responses.keys() != further.responses.keys():
            names = " and ".join(sorted(before.responses.keys() ^ further.responses.keys()))
            raise UserError(f"the teacher gave {names} in some rounds and not in others; ask one that always does.")
        refused = before.refused + refused
        inputs = self._question(self.rows).inputs
        answered = inputs[rows_answered(inputs, refused)] if refused else inputs
        self.transfer = TransferSet(
            replace(answered, class_names=before.pool.class_names),
            {name: torch.cat([value, further.responses[name]]) for name, value in before.responses.items()},
            before.teacher,
            before.fingerprint,
            before.accounts + further.accounts,
            before.bill + further.bill,
            refused,
        )
        return self.transfer

    def finished(self, run: Run) -> dict[str, Any]:
        """Note the run of this round in rounds.csv; returns its line."""
        assert self.transfer is not None
        assert self.validation is not None
        assert run.validation is not None
        # Those of the run, because a resumed job finds its answers in the store and has paid for nothing.
        self.transfer = replace(self.transfer, accounts=run.accounts, bill=run.bill)
        counted = run.student.output == "logits"
        row = {
            "round": self.number,
            "calls": len(self.rows),
            "refused": len(self.transfer.refused),
            "paid": run.accounts.paid,
            "cost": f"{run.bill.cost:f}",
            "validation": run.validation,
            "validation_inputs": len(self.validation),
            "at_least": round(at_least(run.validation, len(self.validation)), 4) if counted else None,
            "accuracy": run.accuracy,
            "epochs": run.epochs,
            "images_seen": run.images_seen,
            "seconds": run.seconds,
        }
        self.table.append(row)
        files.write_rows(self.folder / TABLE, self.table)
        if len(self.table) > 1:
            try_to_draw(self.table, self.settings.until, self.folder / PICTURE)
        self._end()
        return row

    def _end(self) -> None:
        """Find out whether the rounds end here. A round that was chosen before the job was stopped goes on."""
        done, settings = len(self.table), self.settings
        self.ended = done in (self.last, len(self.sizes))
        if settings.until is None or self._asked(self.number).exists():
            return
        what = "accuracy" if isinstance(self.validation, Pool) else "agreement with the teacher"
        spent = f"All {self.table[-1]['calls']:,} inputs are asked about" if self.ended else None
        if self._left_to_ask() == 0:
            spent = f"The budget of {settings.ask.budget:,} is spent"
        self.ending = ending(self.table, settings.until, self.sizes[-1], what, spent)
        self.ended = self.ending is not None

    def publish(self) -> None:
        """Move the run of the last round to where people look for it. Its run.json is written last."""
        home, apart = self.home(len(self.table)), self.folder / FOLDER / str(len(self.table))
        if home == apart:
            for path in home.iterdir():
                if path.name != files.RUN:
                    files.write(self.folder / path.name, path.read_bytes())
        more = {"rounds": self.table} | ({} if self.ending is None else {"ending": asdict(self.ending)})
        files.write_json(self.folder / files.RUN, files.read_run(home) | more)
        shutil.rmtree(apart, ignore_errors=True)
        for directory in (self.folder, self.folder / FOLDER):
            files.finish(directory, keep_checkpoint=True)


def _described(settings: DistillSettings, checked: Checked) -> dict[str, Any]:
    """What tells this run from others."""
    values = described(settings, checked.teacher.name, checked.teacher.fingerprint) | settings.train.model_dump()
    own = {"student": settings.student, "method": settings.method, "options": settings.options}
    return values | own | {"seed": settings.data.seed}


def _check_settings(now: dict[str, Any], folder: Path) -> None:
    """Refuse a folder that holds another run.

    Raises:
        UserError: it does.
    """
    path = folder / FOLDER / SETTINGS
    if path.exists():
        lengthened = files.LENGTHENED if (folder / files.RUN).exists() else ()
        files.compare(folder, json.loads(path.read_text()), now, {*files.FREE, *lengthened})


def _keep_settings(settings: DistillSettings, now: dict[str, Any], folder: Path) -> None:
    """Write them before the first call, and only when nothing refuses it any more."""
    path = folder / FOLDER / SETTINGS
    if not path.exists():
        for name, content in kept_settings(settings).items():
            files.write(folder / name, content)
        files.write_json(path, now)


def first_choice(settings: DistillSettings, pool: Pool) -> dict[str, Any]:
    """How inputs are chosen before there is a student: method and features, as `select` takes them.

    Medoids of an encoder's features (those of the run that the settings name, or of a student that begins with trained
    weights), or of the pixels of small images; at random, where nothing tells inputs apart.
    """
    features = encoded(settings, pool)
    return {"method": "random" if features is None else "medoids", "features": features}
