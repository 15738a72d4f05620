"""The training loop: one student, one objective, batches that are already on the device."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tuition.errors import Notice, UserError
from tuition.held import Held
from tuition.training import files, parallel
from tuition.training.average import Average
from tuition.training.batches import Batches
from tuition.training.callbacks import Callback, UnfinishedError
from tuition.training.learner import Learner, make_optimizer, make_scaler, step
from tuition.training.objective import Beside, Objective
from tuition.training.schedule import Schedule
from tuition.training.settings import TrainSettings
from tuition.training.student import Student
from tuition.training.trained import freezing, training_mode
from tuition.training.unasked import Unasked


@dataclass
class State:
    """All that changes while a student is trained, beside its weights; `done` steps of an unfinished epoch.

    It is to end after `planned` epochs; its cosine began after `since`.
    """

    epoch: int = 0
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    stage: int = 0
    waited: int = 0
    done: int = 0
    planned: int = 0
    since: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def _check_unvalidated(settings: TrainSettings) -> None:
    """Refuse what reads validation where there is none."""
    if settings.schedule == "stages":
        raise UserError("the stages schedule needs validation; give a validation set, or use schedule: cosine.")
    if settings.stop_after is not None:
        raise UserError("stop_after needs validation; give a validation set, or leave stop_after out.")


# What repeats a run exactly on CUDA, at a price that is not yet measured.
@torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
def train(
    student: Student,
    objective: Objective,
    batches: Batches,
    settings: TrainSettings,
    *,
    unasked: Unasked | None = None,
    validate: Callable[[Student], float] | None = None,
    measures: Mapping[str, Callable[[Student], float]] = MappingProxyType({}),
    checkpoint: Path | None = None,
    record: Callable[[list[dict[str, float]]], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> tuple[State, dict[str, Tensor]]:
    """Train `student` in place to its last epoch. Where `settings.average` is on, its average takes its place.

    A signal that ends the process (SIGINT, SIGTERM, SIGHUP) takes effect after the step in which it arrives, of several
    processes after the epoch; a checkpoint is written first.

    Args:
        student, objective: on the device of the batches; their parameters are optimised together.
        unasked: inputs without answers, of which a batch is learned from at every step.
        validate: a figure to maximise, in percent, read after every epoch.
        measures: further figures to read then, by name.
        checkpoint: file to continue from and to save to: at most every `settings.checkpoint_seconds`, when the training
            is stopped, and after the last epoch. Of several processes the first reads and writes it; another number of
            processes may continue. A training that had ended continues for more epochs.
        record: called after every epoch, in the first process, with the figures of all epochs.
        callbacks: called after every epoch, in the first process, with that epoch's figures; each may stop the
            training.

    Returns:
        The final state, and the student's weights at the best validation (the last ones without validation).

    Raises:
        UserError: a loss is no longer finite; or no validation set is there for the schedule to read.
        UnfinishedError: a callback stopped the training, after a checkpoint was written.
    """
    if validate is None:
        _check_unvalidated(settings)
    devices = [batches.device] if batches.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), freezing(student, settings), Held() as held, ExitStack() as stack:
        run = Training(student, objective, batches, settings, unasked)
        stack.callback(parallel.release, run.shared)
        saved = parallel.first(lambda: None if checkpoint is None else files.load_checkpoint(checkpoint))
        if saved is not None:
            run.resume(saved)
        saved_at = time.monotonic()

        def save() -> None:
            if checkpoint is not None:
                files.save_checkpoint(checkpoint, run.saved())

        while not run.finished:
            for _ in run.steps():
                if held.arrived and parallel.count() == 1:
                    save()
                    held.deliver()
            row = run.measure(validate, measures)
            try:
                if record is not None and parallel.rank() == 0:
                    record(run.state.history)
                for callback in callbacks if parallel.rank() == 0 else ():
                    callback.on_epoch(row)
            except BaseException:
                save()
                raise
            if run.finished or time.monotonic() - saved_at >= settings.checkpoint_seconds:
                if parallel.rank() == 0:
                    save()
                saved_at = time.monotonic()
            everyones = parallel.all_of((held.arrived, any(callback.stop for callback in callbacks)))
            if number := max(arrived for arrived, _ in everyones):
                parallel.first(save)  # which all wait for
                held.deliver(number)
            if any(stop for _, stop in everyones) and not run.finished:
                parallel.first(save)
                raise _unfinished(run.state, checkpoint is not None)
        if run.average is not None:
            student.load_state_dict(run.average.student.state_dict())
        if validate is None:
            run.state.best_epoch = run.state.epoch
            return run.state, _copied(student)
        best = {name.partition("."): value for name, value in run.best.items()}
        return run.state, {name: value for (part, _, name), value in best.items() if part == "student"}


class Training:
    """A student while it is trained: all that a checkpoint holds, after any step."""

    def __init__(
        self,
        student: Student,
        objective: Objective,
        batches: Batches,
        settings: TrainSettings,
        unasked: Unasked | None = None,
    ) -> None:
        self.student, self.batches, self.settings, self.unasked = student, batches, settings, unasked
        self.state, self.schedule = State(planned=settings.epochs), Schedule(settings, len(batches))
        self.learner = Learner(student, objective, settings.precision)
        self.shared = parallel.averaged(self.learner)
        self.optimizer = make_optimizer(self.learner, settings, batches.device)
        self.scaler = make_scaler(settings, batches.device)
        self.average = Average(student, settings.average) if settings.average else None
        self.best = _copied(self.learner)
        self.sums: dict[str, Tensor] = {}  # of the terms, over the steps of the epoch
        self.rate = settings.learning_rate
        self.began_at = batches.generator.get_state()  # what the epoch was drawn with
        self.clock = time.perf_counter()
        _seed_dropout(batches.generator.initial_seed() + parallel.rank(), batches.device)

    @property
    def finished(self) -> bool:
        return self.state.epoch >= self.settings.epochs or self.schedule.finished

    def steps(self) -> Iterator[None]:
        """The steps that are left of an epoch; after each, a checkpoint may be taken."""
        self.clock = time.perf_counter()
        training_mode(self.student, self.settings)
        if self.state.done == 0:
            self.sums, self.began_at = {}, self.batches.generator.get_state()
        for drawn, beside in self._left():
            self.rate = self.settings.learning_rate * self.schedule.factor(self.state.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * group["factor"]
            batch = replace(self.batches.batch(*drawn), epoch=self.state.epoch)
            if beside is not None:
                batch = replace(batch, beside=self._beside(*beside))
            clip_norm = self.settings.clip_norm
            terms = step(self.shared, self.optimizer, batch, clip_norm=clip_norm, scaler=self.scaler)
            for name, value in terms.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            if self.average is not None:
                self.average.update(self.state.steps)
            self.state.steps += 1
            self.state.done += 1
            self.state.images += len(batch.rows) + (0 if batch.beside is None else len(batch.beside.target))
            yield

    @torch.no_grad()
    def _beside(self, inputs: Tensor, target: Tensor | None, seed: int) -> Beside:
        """What is learned from these raw inputs: that their strong views are answered as the average does weak ones; or
        that their weak views are answered by a target, which does not come from the student itself."""
        assert self.unasked is not None
        assert self.average is not None
        weak, strong = self.unasked.views(inputs, seed)
        own = None
        if parallel.count() > 1:
            own = torch.arange(len(inputs), device=weak.device).tensor_split(parallel.count())[parallel.rank()]
            weak, strong = weak[own], strong[own]
        weight = self.schedule.risen(self.state.steps)
        if target is not None:
            return Beside(weak, target, weight, own)
        with self.learner.autocast(weak.device):
            target = self.average.outputs(weak)
        if own is not None:
            target = parallel.gather(target, own, len(inputs))
        return Beside(strong, target, weight, own)

    def _left(self) -> Iterator[tuple[tuple[Any, ...], tuple[Tensor, Tensor | None, int] | None]]:
        """The draws of the epoch after those done, which are repeated to be skipped; mixes draw as they are reached."""
        generator, done = self.batches.generator, self.state.done
        now = generator.get_state()
        generator.set_state(self.began_at)
        beside = repeat(None) if self.unasked is None else self.unasked.draw(len(self.batches), generator)
        drawn = zip(self.batches.draw(), beside, strict=False)
        for _ in range(done):
            next(drawn)
        if done:
            generator.set_state(now)
        return drawn

    def measure(
        self,
        validate: Callable[[Student], float] | None,
        measures: Mapping[str, Callable[[Student], float]] = MappingProxyType({}),
    ) -> dict[str, float]:
        """End an epoch: its figures, and what follows from them."""
        state = self.state
        # Running statistics are linear in those of batches, so once an epoch is as good as every step.
        for student in [self.student] if self.average is None else [self.student, self.average.student]:
            modules = zip(student.modules(), self.student.modules(), strict=True)
            in_training = [module for module, its in modules if its.training]  # frozen ones stay, bit for bit
            buffers = [x for module in in_training for x in module.buffers(recurse=False)]
            parallel.average([x for x in buffers if x.is_floating_point()])
        terms = {name: float(total) / len(self.batches) for name, total in self.sums.items()}
        for name, mean in terms.items():
            if not abs(mean) < float("inf"):
                raise UserError(
                    f"the loss term {name} became {mean} in epoch {state.epoch + 1} at learning rate {self.rate:.3g}; "
                    "lower the learning rate."
                )
        row: dict[str, float] = {"epoch": state.epoch + 1, "learning_rate": self.rate, "loss": sum(terms.values())}
        row |= terms
        measured = self.student if self.average is None else self.average.student
        if validate is not None:
            row["validation"] = validate(measured)
        row |= {name: measure(measured) for name, measure in measures.items()}
        state.epoch, state.done = state.epoch + 1, 0
        if validate is not None:
            self._choose(row["validation"])
        self._tick()
        row |= {"images": state.images, "seconds": round(state.seconds, 3)}
        state.history.append(row)
        return row

    def _choose(self, validation: float) -> None:
        """Keep the best weights, and begin the next stage with them where one ends."""
        state = self.state
        improved = state.best is None or validation > state.best
        # By default the later of ties, because it has been trained for longer.
        if improved or (validation == state.best and self.settings.ties == "later"):
            state.best, state.best_epoch = validation, state.epoch
            self.best = _copied(self.learner)
            if self.average is not None:
                self.best |= {f"student.{name}": value for name, value in _copied(self.average.student).items()}
        if self.schedule.update(improved):
            self._restore()
            if self.settings.stage_momentum == "clear":
                self.optimizer.state.clear()

    def _restore(self) -> None:
        """Take the weights of the best epoch."""
        best = self.best
        if self.settings.stage_memory == "keep":
            memory = {f"objective.{name}" for name, _ in self.learner.objective.named_buffers()}
            best = best | {name: value for name, value in self.learner.state_dict().items() if name in memory}
        self.learner.load_state_dict(best)
        if self.average is not None:
            self.average.student.load_state_dict(self.student.state_dict())

    def _tick(self) -> None:
        now = time.perf_counter()
        self.state.seconds, self.clock = self.state.seconds + now - self.clock, now

    def saved(self) -> dict[str, Any]:
        """What `resume` takes."""
        if self.state.done:  # between epochs no time passes
            self._tick()
        stages = self.schedule.stages
        self.state.stage, self.state.waited, self.state.since = stages.stage, stages.waited, self.schedule.since
        return {
            "weights": self.learner.state_dict(),
            "average": None if self.average is None else self.average.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "generator": self.batches.generator.get_state(),
            "began_at": self.began_at,
            "dropout": _dropout_state(self.batches.device),
            "sums": self.sums,
            "state": vars(self.state),
            "best": self.best,
            "made_by": _made_by(self.batches.device),
        }

    def resume(self, saved: dict[str, Any]) -> None:
        """Resume from a checkpoint, with its number of threads, and say in which epoch."""
        device = self.batches.device
        self.learner.load_state_dict(saved["weights"])
        if self.average is not None:
            self.average.student.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(saved["scaler"])
        self.batches.generator.set_state(saved["generator"])
        self.state = State(**saved["state"])
        stages = self.schedule.stages
        stages.stage, stages.waited, self.schedule.since = self.state.stage, self.state.waited, self.state.since
        if self.settings.epochs > self.state.planned:
            self.schedule.lengthen(self.state.epoch)
            self.state.planned = self.settings.epochs
        self.best = {name: value.to(device) for name, value in saved["best"].items()}
        self.sums = {name: value.to(device) for name, value in saved["sums"].items()}
        self.began_at = saved["began_at"]
        if parallel.rank() == 0:
            _restore_dropout(saved["dropout"], device)
            if not self.finished:
                now, most = self.state.epoch + 1, self.settings.epochs
                warnings.warn(f"this run resumes in epoch {now:,} of {most:,}.", Notice, stacklevel=3)
        else:  # of several processes only the first has its state in the checkpoint
            _seed_dropout(self.batches.generator.initial_seed() + parallel.rank() + self.state.steps, device)
        _compare(saved["made_by"], device)


def _unfinished(state: State, resumes: bool) -> UnfinishedError:
    what = "the same call resumes it." if resumes else "name a folder to resume it from."
    return UnfinishedError(f"the training was stopped after epoch {state.epoch} of {state.planned}; {what}")


def _made_by(device: torch.device) -> dict[str, Any]:
    """What the last bits of a training depend on, beside its settings."""
    return {"threads": torch.get_num_threads(), "torch": str(torch.__version__), "device": device.type}


def _compare(before: dict[str, Any], device: torch.device) -> None:
    """Use the number of threads of before, and warn of other differences."""
    threads = before["threads"]
    if device.type == "cpu" and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
        warnings.warn(f"this run resumes with the {threads} threads that it began with.", Notice, stacklevel=2)
    now = _made_by(device)
    for name in ("torch", "device"):
        if before[name] != now[name]:
            warnings.warn(
                f"this run began with {name} {before[name]} and resumes with {now[name]}; its weights will differ in "
                "their last bits from those of a run without a break.",
                Notice,
                stacklevel=2,
            )


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


# -- the random state that dropout draws from --------------------------------------------------------------------------


def _seed_dropout(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _dropout_state(device: torch.device) -> dict[str, Tensor]:
    """By type of device."""
    states = {"cpu": torch.get_rng_state()}
    return states if device.type == "cpu" else states | {device.type: torch.get_device_module(device).get_rng_state()}


def _restore_dropout(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type])
