"""Train a student on a transfer set, or a teacher on labels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuition import disk, models
from tuition.data import Accounts, Bill, Pool, TransferSet
from tuition.errors import UserError
from tuition.training import callbacks as following
from tuition.training import evaluation, files, leaks, model_card, parallel
from tuition.training.callbacks import Callback
from tuition.training.cpu_threads import using
from tuition.training.loop import train
from tuition.training.objective import Objective
from tuition.training.preflight import set_up, train_settings
from tuition.training.recentre import centre_of, offset, recentre, recentred
from tuition.training.run import STUDENT, TEACHER, Run, reopen, write_run
from tuition.training.run_identity import nearness_digest, recorded_digests, recorded_settings, tensors_digest
from tuition.training.settings import TrainSettings
from tuition.training.setup import Setup
from tuition.training.student import Student
from tuition.training.task_classes import answers_for


def distill(
    student: nn.Module | str,
    transfer: TransferSet,
    objective: str | Objective | Callable[..., Any] = "ckd",
    *,
    validation: Pool | TransferSet | None = None,
    test: Pool | None = None,
    unasked: Pool | None = None,
    nearness: Tensor | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    options: dict[str, Any] | None = None,
    preprocess: nn.Module | None = None,
    start: models.Start | None = None,
    settings: TrainSettings | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    described: dict[str, Any] | None = None,
    keep: Mapping[str, bytes] | None = None,
    weights: str = STUDENT,
    **changes: Any,
) -> Run:
    """Train a student on a transfer set.

    In a process group of torch.distributed, all processes call this alike and share the batches, of which `batch_size`
    is the size over all. The first writes the files, in a folder that all can read; all return the run.

    Args:
        student: a model from preprocessed inputs to logits (n, k), which is copied, not changed; or a name that
            `models.create` knows; or the folder of a finished run, whose student is trained further.
        transfer: inputs with responses; without labels the label terms fall away (see `teacher_labels`). From an
            "embedding" (n, d) alone, without logits or labels, a student of embeddings is made, of the same width
            where a name is given; another width meets the teacher's in a projector that the objective learns.
        objective: the name of a method, or of your own function, "package.module:function"; such a function itself, of
            a `Task`, or `loss(student, teacher, labels)` of logits; or an `Objective`, whose modules are trained in
            place.
        validation: labelled inputs to choose the best epoch by; or a transfer set, to choose it by agreement with
            its responses.
        test: labelled inputs, evaluated twice: after the last epoch and at the best validation.
        unasked: inputs that no teacher was asked about, without those to validate and test on. At every step a batch of
            them is learned from beside the answers: what the student answers for strong views is to equal what its
            average answers for weak ones (see `losses.consistency`). Their labels are never read. `average` is 0.99
            then, unless it is set. Steps take about three times as long.
        nearness: (m, n) shares by which m unasked inputs take the answers of the n inputs of the transfer set, as
            `data.nearness` finds them by an encoder's features; they then learn these in place of the average's
            outputs. Labels that are used count as half of an answer, as in `ckd` and `mse`.
        seed: of the order of batches, augmentation and, for a name, the initial weights.
        out: folder for the run's files; a finished run there is returned, an unfinished one resumes, another is
            refused. It is another run if the code of your own student, objective or preprocessing was edited.
            With higher `epochs` a finished run continues from its last weights and the state of its optimizer. Stages
            continue as in one long run. A cosine has ended: another one begins, with `learning_rate`, which may be
            changed too, over the additional epochs. run.json records the parts under "continued".
        options: options of the method, such as {"anchor": 0.3}.
        preprocess: from raw inputs to the student's; by default, the channels' mean and std over the transfer set.
        start: what a student that is given by name begins with: published weights, a number of layers, and the like.
        settings: how it is trained.
        callbacks: what follows the training, such as a log or a deadline (see `Callback`).
        progress: draw a bar on standard error.
        described: further settings to record with the run and compare on resume, such as where the data came from.
        keep: further files to write into `out` when the run begins, by name, such as its configuration.
        weights: name of the file of weights in `out`.
        **changes: single settings of `TrainSettings`, such as epochs=30; they take precedence over `settings`.

    Raises:
        UserError: settings, sizes or files that do not fit, or a loss that is no longer finite.
        UnfinishedError: a callback stopped the training; with `out`, the same call resumes.
    """
    if not isinstance(transfer, TransferSet):
        what = f"inputs with a teacher's answers, not a {type(transfer).__name__}"
        raise UserError(
            f"a student learns from {what}; pass what ResponseStore.ask returns, or TransferSet(pool, {{}})."
        )
    setup = set_up(
        student,
        transfer,
        objective,
        options=options,
        validation=validation,
        test=test,
        unasked=unasked,
        nearness=nearness,
        preprocess=preprocess,
        seed=seed,
        start=start,
        settings=train_settings(settings, changes, student, transfer.pool.kind == "texts"),
    )
    trained = setup.objective(setup.student, setup.transfer)
    directory = None if out is None else Path(out)
    recorded = {} if directory is None and parallel.count() == 1 else _recorded(setup, trained, described)
    with contextlib.ExitStack() as stack:
        record: dict[str, Any] = {}
        if directory is not None:
            record = parallel.first(lambda: _opened(directory, recorded, transfer, keep or {}, stack))
            if record["status"] == "done":
                return reopen(directory, record, setup.student, setup.settings.keep_checkpoint)
        _point_out_leaks(setup)
        if progress and parallel.rank() == 0:
            callbacks = [*callbacks, stack.enter_context(following.bar(setup.settings.epochs))]
        run = _train(setup, trained, directory, record, callbacks)
        if directory is not None:
            record["learned_from"] = _learned_from(transfer)
            parallel.first(lambda: write_run(run, trained, record, weights, setup.settings.keep_checkpoint))
        for callback in callbacks if parallel.rank() == 0 else ():
            callback.on_end(run)
    return run


def train_teacher(
    model: nn.Module | str,
    pool: Pool,
    *,
    validation: Pool | None,
    out: str | Path | None = None,
    **others: Any,
) -> Run:
    """Train a teacher on labels by plain cross-entropy, which keeps the scale of logits that students match.

    Arguments are those of `distill`. Without validation its weights are those of the last epoch.
    """
    return distill(model, TransferSet(pool, {}), "ce", validation=validation, out=out, weights=TEACHER, **others)


def _point_out_leaks(setup: Setup) -> None:
    measured = {"validation": setup.validation, "test": setup.test}
    where = "the transfer set" if setup.transfer.responses else "the training set"
    leaks.warn_of_shared(setup.transfer.pool, where, **measured)
    leaks.warn_of_shared(setup.unasked, "the unasked pool", **measured)


def _learned_from(transfer: TransferSet) -> dict[str, Any]:
    """What run.json says of the transfer set."""
    teacher = transfer.teacher if transfer.responses else None
    return {"pool": transfer.pool.name, "inputs": len(transfer), "teacher": teacher}


def _recorded(setup: Setup, objective: Objective, described: Mapping[str, Any] | None) -> dict[str, Any]:
    """What tells this run from another one, the same in all processes."""
    recorded = recorded_settings(setup, described) | recorded_digests(setup, objective)
    recorded |= nearness_digest(setup, described)
    initial = {**setup.student.state_dict(), **objective.state_dict(prefix="objective.")}
    compared = {name: value for name, value in recorded.items() if name not in files.FREE}
    parallel.check_same(**compared, initial_weights=tensors_digest(initial))
    return recorded


def _opened(
    directory: Path,
    recorded: dict[str, Any],
    transfer: TransferSet,
    keep: Mapping[str, bytes],
    stack: contextlib.ExitStack,
) -> dict[str, Any]:
    """What run.json of this run holds, whose folder is held from now on. Files to keep stay as they first were, unless
    the run was given more epochs.
    """
    before = files.find_run(directory, recorded)  # refuses another folder before it is touched
    stack.enter_context(disk.hold(directory))
    record = files.open_run(directory, recorded, transfer.accounts.as_dict(), transfer.bill.as_dict())
    if before is not None and before["status"] != record["status"]:
        model_card.remove_unedited(directory, before)
    for name, content in keep.items():
        if "continued" in record or not (directory / name).exists():
            files.write(directory / name, content)
    return record


def _train(
    setup: Setup, objective: Objective, directory: Path | None, record: dict[str, Any], callbacks: Sequence[Callback]
) -> Run:
    """Train, and measure what was learned."""
    student, transfer, settings = setup.student, setup.encoded(setup.transfer), setup.settings
    batches = setup.batches(
        transfer, objective, batch_size=settings.batch_size, rank=parallel.rank(), processes=parallel.count()
    )
    student, objective = student.to(setup.device), objective.to(setup.device)
    centre = centre_of(transfer, setup.num_classes, objective.recentre) if objective.recentre else None
    validate = None if setup.validation is None else _validator(student, setup.validation, transfer, centre)
    with using(settings.threads, student, math.ceil(settings.batch_size / parallel.count())):
        state, best = train(
            student,
            objective,
            batches,
            settings,
            unasked=setup.beside(),
            validate=validate,
            measures=_measures(setup, transfer, objective, centre),
            checkpoint=None if directory is None else directory / files.CHECKPOINT,
            record=None if directory is None else files.GrowingRows(directory / files.METRICS),
            callbacks=callbacks,
        )
    with recentred(student, transfer, centre):
        last = None if setup.test is None else student.evaluate(setup.test)
    student.load_state_dict(best)
    if centre is not None:
        recentre(student, transfer, centre)
    final = None if setup.test is None else student.evaluate(setup.test)
    student.cpu().eval()
    return Run(
        student=student,
        method=setup.method.name,
        accuracy=None if final is None else final.accuracy,
        accuracy_last=None if last is None else last.accuracy,
        validation=state.best,
        top5=None if final is None else final.top5,
        calibration_error=None if final is None else final.calibration_error,
        agreement=_agreement(student, transfer),
        best_epoch=state.best_epoch,
        epochs=state.epoch,
        steps=state.steps,
        images_seen=state.images,
        seconds=round(state.seconds, 3),
        accounts=Accounts(**record["accounts"]) if record else transfer.accounts,
        bill=Bill.from_dict(record["bill"]) if record else transfer.bill,
        history=state.history,
        measured=_measured(setup),
        directory=directory,
        teacher_accuracy=setup.teacher_accuracy,
        teacher_inputs=0 if setup.teacher_accuracy is None else len(transfer),
    )


def _measures(
    setup: Setup, transfer: TransferSet, objective: Objective, centre: Tensor | None
) -> dict[str, Callable[[Student], float]]:
    """Further figures of every epoch, of the student recentred where needed."""
    if not setup.settings.offset:
        return {}
    targets = centre_of(transfer, setup.num_classes, objective.recentre or (1.0, 1.0))

    def measure(student: Student) -> float:
        with recentred(student, transfer, centre):
            return offset(student, transfer, targets)

    return {"offset": measure}


def _measured(setup: Setup) -> dict[str, str]:
    """On what each figure was measured."""
    measured = {}
    if answers_for(setup.student.output, setup.transfer.responses) is not None:
        measured["agreement"] = f"the {len(setup.transfer):,} inputs of the transfer set"
    if isinstance(setup.validation, TransferSet):
        measured["validation"] = f"agreement with the teacher on {len(setup.validation):,} further inputs"
    elif setup.validation is not None:
        measured["validation"] = f"accuracy on {len(setup.validation):,} labelled inputs"
    if setup.test is not None:
        measured["accuracy"] = f"the {len(setup.test):,} inputs of {setup.test.name}"
    return measured


def _validator(
    student: Student, validation: Pool | TransferSet, transfer: TransferSet, centre: Tensor | None
) -> Callable[[Student], float]:
    """Top-1 on labels, or agreement with the teacher's answers, in percent, of the student recentred where needed.

    Each of several processes looks at its share, and all return the same figure.
    """
    pool = validation.pool if isinstance(validation, TransferSet) else validation
    targets = answers_for(student.output, validation.responses) if isinstance(validation, TransferSet) else pool.labels
    assert targets is not None
    device = next(student.parameters()).device
    mine = torch.arange(len(pool)).tensor_split(parallel.count())[parallel.rank()]
    inputs = student.read(pool)[mine].to(device) if pool.in_memory else pool[mine]
    targets = targets.to(device)

    def validate(student: Student) -> float:
        with recentred(student, transfer, centre), torch.inference_mode():
            outputs = parallel.gather(student.outputs(inputs).to(device), mine.to(device), len(pool))
        if isinstance(validation, TransferSet):
            return evaluation.agreement(outputs, targets, student.output)
        return evaluation.percent(outputs.argmax(dim=1) == targets)

    return validate


def _agreement(student: Student, transfer: TransferSet) -> float | None:
    answers = answers_for(student.output, transfer.responses)
    return None if answers is None else evaluation.agreement(student.outputs(transfer.pool), answers, student.output)
