"""One job from settings: check, ask, complete, train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from tuition import disk, stopping
from tuition.data import Pool, TransferSet
from tuition.data.transfer import rows_answered
from tuition.errors import UserError
from tuition.pipeline import logs
from tuition.pipeline.checks import Checked, check_distill, check_fit, described
from tuition.pipeline.encoder import nearness_of
from tuition.pipeline.paid_mixes import add_paid_mixes
from tuition.pipeline.rounds import Rounds, resolved
from tuition.pipeline.settings import Asking, DistillSettings
from tuition.pipeline.settings_file import kept_settings
from tuition.pipeline.sources import Sources
from tuition.pipeline.teach import with_digits_teacher
from tuition.pipeline.unasked import unasked_of
from tuition.pipeline.until import next_point
from tuition.pipeline.watch import Watch
from tuition.store import ResponseStore, maps_bytes, recompute, refusals
from tuition.teachers import Teacher
from tuition.training import Callback, Run, distill, parallel
from tuition.training.callbacks import WithoutEnd
from tuition.training.methods import teacher_layers


def run(
    settings: DistillSettings, out: Path | None = None, sources: Sources | None = None, watch: Watch | None = None
) -> Run:
    """Check, ask, complete, train: every run is made in this order.

    Args:
        out: folder for the run's files.
        sources: pools and teachers that other jobs share.

    Raises:
        UserError: what does not fit; what is known before the first call is paid is said then.
    """
    sources, watch = sources or Sources(), watch or Watch()
    settings = with_digits_teacher(resolved(settings, sources), sources, watch)
    with ExitStack() as held:  # the folder, from before a call is paid
        if settings.in_rounds:
            return _in_rounds(settings, out, sources, watch, held)

        def answers() -> tuple[TransferSet, Pool | TransferSet, Pool | None, Tensor | None]:
            checked = check_distill(settings, out, sources)
            if out is not None:
                held.enter_context(disk.hold(out))
            with watch.asking() as progress:
                transfer, validation = ask(settings, checked, progress)
            watch.answered(transfer, validation)
            transfer = complete(settings, checked.teacher, transfer, watch)
            return transfer, validation, checked.unasked, nearness_of(settings, transfer, checked.unasked)

        transfer, validation, unasked, near = parallel.first(answers)
        test = sources.test_pool(settings.data)
        with watch.training(settings.train.epochs) as callbacks:
            return train(settings, transfer, validation, test, out, callbacks, unasked, near)


def _in_rounds(settings: DistillSettings, out: Path | None, sources: Sources, watch: Watch, held: ExitStack) -> Run:
    """Check once; then ask, complete and train in every round, and publish the run of the last."""
    rounds: Rounds | None = None  # in the first process alone
    run: Run | None = None

    def opened() -> None:
        nonlocal rounds
        checked = check_distill(settings, out, sources)
        folder = Path(held.enter_context(TemporaryDirectory(prefix="tuition-"))) if out is None else out
        held.enter_context(disk.hold(folder))
        rounds = Rounds(settings, checked, sources, folder)

    def answers() -> tuple[TransferSet, Pool | TransferSet, Pool | None, Tensor | None, DistillSettings, Path]:
        assert rounds is not None
        question = rounds.choose(None if run is None else run.student)
        with watch.asking() as progress:
            checked = replace(rounds.checked, question=question)
            further, validation = ask(settings, checked, progress, known=run is not None)
        watch.answered(further, question.measured or validation)
        transfer, training = rounds.answered(question, further, validation), rounds.training
        measured = replace(question, validation=validation).measured
        unasked = unasked_of(settings, sources, transfer.pool, measured, test)
        transfer = complete(training, checked.teacher, transfer, watch)
        near = nearness_of(settings, transfer, unasked)
        return transfer, validation, unasked, near, training, rounds.home(rounds.number)

    def finished(run: Run) -> tuple[bool, list[dict[str, Any]]]:
        assert rounds is not None
        watch.round(rounds.finished(run))
        if rounds.ending is not None:
            watch.say(f"{rounds.ending.sentence} {next_point(rounds.table)}")
        if rounds.ended:
            rounds.publish()
        return rounds.ended, rounds.table

    parallel.first(opened)
    ended, test = False, sources.test_pool(settings.data)
    log = logs.begin(settings) if parallel.rank() == 0 else []
    while not ended:
        transfer, validation, unasked, near, training, home = parallel.first(answers)
        with watch.training(training.train.epochs) as callbacks:
            run = train(training, transfer, validation, test, home, [*callbacks, *map(WithoutEnd, log)], unasked, near)
        ended, table = parallel.first(partial(finished, run))
        for callback in (*callbacks, *log) if parallel.rank() == 0 else ():
            callback.on_round(table[-1])
    assert run is not None
    run = replace(run, directory=out, rounds=table)
    for callback in log:
        callback.on_end(run)
    return run


def ask(
    settings: Asking,
    checked: Checked,
    progress: Callable[[int, int], None] | None = None,
    *,
    known: bool = False,
) -> tuple[TransferSet, Pool | TransferSet]:
    """The transfer set, and what to validate on: labelled inputs, or else further answers of the teacher.

    Args:
        known: whether answers of this teacher were looked at before, so that the first ones are taken as they are.
    """
    question, asking = checked.question, settings.ask
    trial = None
    if isinstance(settings, DistillSettings) and not checked.teacher.local and not known:
        trial = partial(check_fit, settings, checked)  # what it answers with is not known before
    with stopping.deferred():
        answered = ResponseStore(asking.store).ask(
            checked.teacher,
            question.inputs,
            **asking.payment,
            batch_size=asking.ask_batch,
            concurrency=asking.concurrency,
            progress=progress,
            stopping=stopping.requested,
            check_answers=asking.check_answers and not known,
            trial=trial,
        )
    if question.validation is not None:
        return answered, question.validation
    first = len([row for row in rows_answered(question.inputs, answered.refused) if row < question.calls])
    if not 0 < first < len(answered):
        raise UserError(
            f"the teacher refused too many inputs ({answered.refused[0].reason}): {first} are left to train on and "
            f"{len(answered) - first} to validate on; ask about more, or about others."
        )
    return answered[:first], answered[first:]


def complete(
    settings: DistillSettings, teacher: Teacher, transfer: TransferSet, watch: Watch | None = None
) -> TransferSet:
    """The transfer set with all that the method needs beside answers: paid mixes, and maps of a local teacher."""
    if settings.paid_mixes:
        transfer = add_paid_mixes(
            ResponseStore(settings.ask.store),
            teacher,
            transfer,
            settings.paid_mixes,
            seed=settings.data.seed,
            **settings.ask.payment,
        )
    needed = teacher_layers(settings.method, settings.student, settings.options)
    layers = [layer for layer in needed if layer not in transfer.responses]
    if not layers:
        return transfer
    if watch is not None:
        size = maps_bytes(teacher, transfer, layers) / 1e6
        watch.say(f"The teacher's feature maps, recomputed without calls, take {size:,.1f} MB.")
    return recompute(teacher, transfer, layers)


def train(
    settings: DistillSettings,
    transfer: TransferSet,
    validation: Pool | TransferSet,
    test: Pool | None,
    out: Path | None = None,
    callbacks: Sequence[Callback] = (),
    unasked: Pool | None = None,
    near: Tensor | None = None,
) -> Run:
    """Train on the answers, and on unasked inputs, and evaluate on `test`."""
    if parallel.rank() == 0:
        callbacks = [*callbacks, *logs.begin(settings)]
    run = distill(
        settings.student,
        transfer,
        settings.method,
        options=settings.options,
        validation=validation,
        test=test,
        unasked=unasked,
        nearness=near,
        seed=settings.data.seed,
        out=out,
        described=described(settings, transfer.teacher, transfer.fingerprint),
        keep={} if settings.in_rounds else kept_settings(settings),
        start=settings.student_start,
        callbacks=callbacks,
        **settings.train.model_dump(),
    )
    if out is not None and transfer.refused and parallel.rank() == 0:
        refusals.write(out / refusals.NAME, transfer.teacher, transfer.refused)
    return run
