"""The classes of a task: how many there are, which student output they make, and labels in their order.

This module owns the check of class counts: of the teacher's answers against the data, and of pools to measure on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from tuition.data import Pool, TransferSet, classes
from tuition.data.transfer import BY_CLASS, by_class
from tuition.errors import UserError
from tuition.training.student import Output


def labelled(transfer: TransferSet, teacher_labels: bool) -> TransferSet:
    """The transfer set; with `teacher_labels`, the teacher's hard answers take the place of missing labels."""
    if transfer.labels is not None or not teacher_labels:
        return transfer
    answers = by_class(transfer.responses)
    if answers is None:
        raise UserError("teacher_labels needs a teacher that answers with classes, by logits or labels.")
    return replace(transfer, pool=replace(transfer.pool, labels=answers.argmax(dim=1)))


def softened(transfer: TransferSet, smoothing: float) -> TransferSet:
    """The transfer set with its votes as students learn them: probabilities, of which `smoothing` is shared evenly.

    A vote of confidence c leaves 1 - c to the other classes.
    """
    votes = transfer.responses.get("votes")
    if votes is None:
        return transfer
    classes = votes.shape[1]
    responses = dict(transfer.responses)
    if "confidence" in responses:
        confidence = responses.pop("confidence")
        others = (1 - confidence) / max(classes - 1, 1)
        votes = others + (confidence - others) * votes
    return replace(transfer, responses=responses | {"votes": (1 - smoothing) * votes + smoothing / classes})


def answers_for(output: Output, responses: Mapping[str, Tensor]) -> Tensor | None:
    """The teacher's answers that such an output of a student is compared with."""
    return responses.get("embedding") if output == "embedding" else by_class(responses)


def learned(transfer: TransferSet) -> Output:
    """What the student answers with: classes, unless only embeddings are there to learn from."""
    known = transfer.labels is not None or by_class(transfer.responses) is not None
    return "logits" if known or "embedding" not in transfer.responses else "embedding"


def count_classes(transfer: TransferSet, *others: Pool | TransferSet | None) -> int:
    """The number of classes of the task: of the teacher's logits, else as the data names; of embeddings, columns.

    Raises:
        UserError: the teacher answers with another number of classes than the data has, or there are none.
    """
    if learned(transfer) == "embedding":
        return transfer.responses["embedding"].shape[1]
    logits, pool = by_class(transfer.responses), transfer.pool
    counted = pool.class_names is None or classes.only_count(pool.class_names)
    if logits is None and counted:  # such names count to the highest label seen, and another pool may have a higher one
        pools = [p.pool if isinstance(p, TransferSet) else p for p in (transfer, *others) if p is not None]
        highest = max((p.num_classes or 0 for p in pools), default=0)
        if highest == 0:
            raise UserError("neither labels nor a teacher's logits are there to learn from; give one of them.")
        return highest
    known = pool.num_classes or 0
    if logits is None:
        return known
    check_width(logits)
    width = logits.shape[1]
    if width < known or (width != known and not counted):
        raise UserError(
            f"the teacher answers with {width} classes, but the data has {known}; use a teacher of this data."
        )
    return width


def check_width(logits: Tensor) -> None:
    """Refuse logits that are not (n, k) of at least two classes: the softmax of one column is always 1."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise UserError(
            "the teacher answers with logits of one column, which cannot tell classes apart; answer yes or no with two "
            'columns (0, x), and a number as an "embedding".'
        )


def in_order(pool: Pool | None, transfer: TransferSet, num_classes: int) -> Pool | None:
    """A pool to measure on, with its labels in the order of the classes that the transfer set teaches.

    Raises:
        UserError: it has labels of classes that the transfer set lacks.
    """
    if pool is None or pool.labels is None or learned(transfer) == "embedding":
        return pool
    return pool.in_classes(task_names(transfer.pool, num_classes) or classes.numbers(num_classes))


def test_in_order(test: Pool | None, transfer: TransferSet, num_classes: int) -> Pool | None:
    """As `in_order`, of the inputs to evaluate on, which may be left out."""
    try:
        return in_order(test, transfer, num_classes)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')} (or evaluate nothing: --set test=null).") from error


def further_in_order(further: TransferSet, transfer: TransferSet, num_classes: int) -> TransferSet:
    """Further answers, with the columns of their logits in the order of the classes that the transfer set teaches."""
    logits, own = by_class(further.responses), further.pool.class_names
    names = task_names(transfer.pool, num_classes)
    if logits is None or own is None or names is None or own == names or not classes.comparable(own, names):
        return further
    matched = classes.match(names, own)
    if not matched.same:
        raise UserError("the answers to validate on are of other classes; ask the same teacher for them.")
    return replace(
        further,
        pool=further.pool.in_classes(names),
        responses={k: v[:, matched.columns] if k in BY_CLASS else v for k, v in further.responses.items()},
    )


def task_names(pool: Pool, num_classes: int) -> tuple[str, ...] | None:
    """The names of the classes that a student of this pool learns; None where they are not known."""
    names = pool.class_names
    if names is not None and len(names) != num_classes:
        return classes.numbers(num_classes) if classes.only_count(names) else None
    return names
