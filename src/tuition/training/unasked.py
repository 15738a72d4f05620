"""Inputs that no teacher was asked about: beside each batch of answers a batch of them, in a weak and a strong view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition import models
from tuition.data import Crop, Pool, TransferSet, ondisk
from tuition.data.strong import dropped_words, noisy_vectors, strong_images
from tuition.errors import UserError
from tuition.training.batches import ahead
from tuition.training.method import Method
from tuition.training.settings import TrainSettings
from tuition.training.student import Student

SAMPLE = 4096  # rows by which the spread of columns is known
ANSWERS = ("logits", "votes", "embedding")  # of the teacher, by which the student's outputs are taught
AVERAGE = 0.99  # decay of the student's average, whose outputs are the targets, unless another one is set


def with_average(settings: TrainSettings) -> TrainSettings:
    """The settings of a training with unasked inputs, whose targets an average of the student makes.

    Raises:
        UserError: it is off.
    """
    if settings.average == 0:
        raise UserError("unasked inputs need an average of the student, which average: 0 turns off; leave it out.")
    return settings if settings.average else settings.model_copy(update={"average": AVERAGE})


def refuse_maps(method: Method) -> None:
    """Refuse a method that compares feature maps, which stay unknown for unasked inputs."""
    if method.layers is not None:
        raise UserError(f"{method.name} compares feature maps, and unasked inputs have none; use ckd, or no unasked.")


def fitted(pool: Pool, like: Pool, student: Student, method: Method) -> Pool:
    """The bare inputs of a pool, seen as those that were asked about. Nothing else that is known of them is kept.

    Raises:
        UserError: they are other inputs than the student reads, or the method compares feature maps.
    """
    if not isinstance(pool, Pool):
        raise UserError(f"unasked inputs are a Pool, not a {type(pool).__name__}; pass its pool.")
    refuse_maps(method)
    bare = replace(pool, labels=None, class_names=None, views=None, crop=None, augment=like.augment)
    if (bare.kind, bare.shape) != (like.kind, like.shape):
        shape = "x".join(map(str, bare.shape))
        raise UserError(
            f"the unasked inputs are {bare.kind} {shape}, and the student reads others; give inputs of the same kind."
        )
    return bare.view(like.crop)


def check_nearness(nearness: Tensor | None, unasked: Pool | None, transfer: TransferSet) -> None:
    """Refuse a nearness that is not of these inputs.

    Raises:
        UserError: it is of others, or there are no answers to take.
    """
    if nearness is None:
        return
    if unasked is None:
        raise UserError("nearness is that of unasked inputs, and there are none; pass unasked too.")
    if not isinstance(nearness, Tensor) or nearness.shape != (len(unasked), len(transfer)):
        raise UserError(
            f"nearness is a tensor ({len(unasked)}, {len(transfer)}), a row an unasked input and a column an answer; "
            "pass what data.nearness returns."
        )
    if not bool(nearness.isfinite().all()):
        raise UserError("some nearness is not finite; pass what data.nearness returns.")
    if not any(name in transfer.responses for name in ANSWERS):
        raise UserError("nearness needs a teacher's answers, and there are none; leave it out.")


def spread(nearness: Tensor, transfer: TransferSet) -> Tensor:
    """What unasked inputs are to answer (m, k), by their nearness (m, n) to the rows of a transfer set.

    Shares of the rows' answers, of which labels are a half where they are known: what `ckd` and `mse` teach the rows.
    """
    name = next(name for name in ANSWERS if name in transfer.responses)
    answers = transfer.responses[name].float()
    if name != "embedding" and transfer.labels is not None:
        answers = (answers + F.one_hot(transfer.labels, answers.shape[1])) / 2
    return nearness.float() @ answers


def strong_view(pool: Pool, student: Student) -> Callable[[Tensor, torch.Generator], Tensor]:
    """How inputs like those of a pool are seen strongly by this student."""
    if isinstance(student.preprocess, models.TextReader):
        return partial(dropped_words, padding=student.preprocess.padding)
    if pool.kind == "vectors":
        rows = torch.linspace(0, len(pool) - 1, min(len(pool), SAMPLE)).long()
        return partial(noisy_vectors, spread=pool.asked_tensor(rows).std(dim=0, correction=0))
    return strong_images


class Unasked:
    """Draws inputs of a pool and their views. They stay in their file where they take more than `IN_MEMORY`.

    Args:
        pool: images, vectors or token ids.
        strong: from a batch (b, ...) and a generator of its device to strong views.
        augment: the random crops of weak views; None leaves inputs as they are.
        batch_size: inputs of a step.
        targets: (n, k) what the student is to answer, where it is known beforehand.
    """

    def __init__(
        self,
        pool: Pool,
        strong: Callable[[Tensor, torch.Generator], Tensor],
        *,
        augment: Crop | None,
        batch_size: int,
        device: torch.device,
        targets: Tensor | None = None,
    ) -> None:
        self.source = pool if augment is None else pool.view(None)
        self.targets = None if targets is None else targets.to(device)
        self.strong, self.augment, self.batch_size, self.device = strong, augment, batch_size, device
        self.inputs = self.source.asked_tensor().to(device) if pool.nbytes <= ondisk.IN_MEMORY else None

    def draw(self, steps: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None, int]]:
        """Raw inputs (b, ...), their targets and a seed for their views, of every step of an epoch, drawn at once."""
        rows = torch.randint(len(self.source), (steps, self.batch_size), generator=generator)
        seeds = torch.randint(2**63 - 1, (steps,), generator=generator).tolist()
        inputs = map(self._held, rows) if self.inputs is not None else ahead(self._read, rows)
        targets = repeat(None) if self.targets is None else (self.targets[part.to(self.device)] for part in rows)
        yield from zip(inputs, targets, seeds, strict=False)

    def views(self, inputs: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """A weak and a strong view of raw inputs (b, ...)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return self._weak(inputs, generator), self.strong(self._weak(inputs, generator), generator)

    def _weak(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        if self.augment is None:
            return inputs
        size = (inputs.shape[2], inputs.shape[3])
        return self.augment(inputs, self.augment.draw(len(inputs), size, generator))

    def _held(self, rows: Tensor) -> Tensor:
        assert self.inputs is not None
        return self.inputs[rows.to(self.device)]

    def _read(self, rows: Tensor) -> Tensor:
        return self.source.asked_tensor(rows).to(self.device)
