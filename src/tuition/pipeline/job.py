"""One job from settings: check, ask, complete, train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tuition import disk, stopping
from tuition.data import Pool, TransferSet
from tuition.data.transfer import rows_answered
from tuition.errors import UserError
from tuition.pipeline import logs
from tuition.pipeline.checks import Checked, check_distill, check_fit, described
from tuition.pipeline.paid_mixes import add_paid_mixes
from tuition.pipeline.settings import Asking, DistillSettings
from tuition.pipeline.settings_file import kept_settings
from tuition.pipeline.sources import Sources
from tuition.pipeline.teach import with_digits_teacher
from tuition.pipeline.watch import Watch
from tuition.store import ResponseStore, maps_bytes, recompute, refusals
from tuition.teachers import Teacher
from tuition.training import Callback, Run, distill, parallel
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
    settings = with_digits_teacher(settings, sources, watch)
    with ExitStack() as held:  # the folder, from before a call is paid

        def answers() -> tuple[TransferSet, Pool | TransferSet, Pool | None]:
            checked = check_distill(settings, out, sources)
            if out is not None:
                held.enter_context(disk.hold(out))
            with watch.asking() as progress:
                transfer, validation = ask(settings, checked, progress)
            watch.answered(transfer, validation)
            return complete(settings, checked.teacher, transfer, watch), validation, checked.unasked

        transfer, validation, unasked = parallel.first(answers)
        test = sources.test_pool(settings.data)
        with watch.training(settings.train.epochs) as callbacks:
            return train(settings, transfer, validation, test, out, callbacks, unasked)


def ask(
    settings: Asking, checked: Checked, progress: Callable[[int, int], None] | None = None
) -> tuple[TransferSet, Pool | TransferSet]:
    """The transfer set, and what to validate on: labelled inputs, or else further answers of the teacher."""
    question, asking = checked.question, settings.ask
    trial = None
    if isinstance(settings, DistillSettings) and not checked.teacher.local:
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
            check_answers=asking.check_answers,
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
        seed=settings.data.seed,
        out=out,
        described=described(settings, transfer.teacher, transfer.fingerprint),
        keep=kept_settings(settings),
        start=settings.student_start,
        callbacks=callbacks,
        **settings.train.model_dump(),
    )
    if out is not None and transfer.refused and parallel.rank() == 0:
        refusals.write(out / refusals.NAME, transfer.teacher, transfer.refused)
    return run
