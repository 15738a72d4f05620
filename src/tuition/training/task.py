"""What a method may know of a task, and the terms that methods are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from tuition import losses, models
from tuition.errors import UserError
from tuition.training.objective import Batch, Term

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Task:
    """What a method may depend on.

    Attributes:
        labels: class indices (n,) of the transfer set, or None.
        responses: the teacher's responses by name, rows as the labels.
        num_classes: width of the student's output.
        seed: of the run.
        model: the student, as it is before training.
        example: two inputs (2, ...) as the model reads them, preprocessed.
        class_weights: (k,) weights of the classes in cross-entropy terms on labels; None weighs all alike.
    """

    labels: Tensor | None
    responses: Mapping[str, Tensor]
    num_classes: int
    seed: int
    model: nn.Module
    example: Tensor
    class_weights: Tensor | None = None

    def shape(self, path: str) -> tuple[int, ...]:
        """Shape (2, ...) of a student output: "logits" or a module path."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), models.Capture(self.model, [path] if path != "logits" else []) as captured:
                logits = self.model(self.example)
                return tuple((logits if path == "logits" else captured[path]).shape)
        finally:
            self.model.train(training)

    @property
    def answer(self) -> str:
        """The response that the student's output learns: the teacher's logits, or its embedding where it has none."""
        return "embedding" if "logits" not in self.responses and "embedding" in self.responses else "logits"

    @property
    def target(self) -> str:
        """The response that an output is regressed onto: the answer, or the votes of a teacher of hard labels."""
        return "votes" if "logits" not in self.responses and "votes" in self.responses else self.answer

    def response(self, name: str) -> Tensor:
        if name == "logits" and self.answer == "embedding":
            raise UserError(
                "this method compares logits, and the teacher answers with embeddings alone; use ckd, mse, rkd or crd."
            )
        if name == "logits" and name not in self.responses and "votes" in self.responses:
            raise UserError(
                "this method compares logits, and the teacher answers with labels alone; use ckd, mse, ce or mixup."
            )
        if name not in self.responses:
            known = ", ".join(self.responses) or "none"
            raise UserError(f"the transfer set has no response {name!r} (it has {known}); ask the teacher for it.")
        return self.responses[name]


def on_response(task: Task, loss: Loss, name: str = "logits") -> Loss:
    """`loss(student, teacher)` on the teacher's response `name`.

    Raises:
        UserError: the teacher did not give it.
    """
    task.response(name)
    return lambda student, batch: loss(student, batch.responses[name])


def on_label(loss: Loss) -> Loss:
    """`loss(student, target)` on the label probabilities."""
    return lambda student, batch: loss(student, batch.targets)


def between_groups(student: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """MSE between the differences of group means, over the groups of the batch."""
    return losses.ckd_groups(student.flatten(1), target.flatten(1), *batch.group_indices())


def differences(x: Tensor, batch: Batch) -> Tensor:
    """Differences (m, ...) of the means of the two sides of every group of the batch, of rows (b, ...)."""
    left, right = batch.group_indices()
    return x[left].mean(dim=1) - x[right].mean(dim=1)


def label_terms(task: Task, name: str, loss: Loss, weight: float = 1.0) -> list[Term]:
    """The term on labels, which falls away where there are none."""
    return [] if task.labels is None or weight == 0 else [Term(name, on_label(loss), weight)]


def cross_entropy_terms(task: Task, weight: float = 1.0) -> list[Term]:
    """The cross-entropy on labels, which falls away where there are none, with the task's weights of the classes."""
    weights = task.class_weights
    if weights is None:
        return label_terms(task, "ce", losses.cross_entropy, weight)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return losses.cross_entropy(logits, target, weights.to(logits.device))

    return [replace(term, balanced=True) for term in label_terms(task, "ce", loss, weight)]


def distilled(task: Task, kd_weight: float, ce_weight: float, temperature: float) -> list[Term]:
    """KD and cross-entropy, which most methods keep beside their own term; without logits, KD falls away."""
    terms = []
    if kd_weight and task.answer == "logits":
        terms = [Term("kd", on_response(task, partial(losses.kd, temperature=temperature)), kd_weight)]
    return terms + cross_entropy_terms(task, ce_weight)


def compared(task: Task, name: str, loss: Loss, weight: float, reads: str, answer: str) -> tuple[Term, list[nn.Module]]:
    """A term between a student output and a response; where their widths differ, they meet in a learned projector.

    The response called "logits" is the votes or the embedding of a teacher that has none.
    """
    answer = task.target if answer == "logits" else answer
    width, target = task.shape(reads)[1:], tuple(task.response(answer).shape[1:])
    if width == target:
        return Term(name, on_response(task, loss, answer), weight, reads), []
    if len(width) != 1 or len(target) != 1:
        raise UserError(
            f"{reads} of the student is {width}, {answer} of the teacher {target}; name vectors to compare."
        )
    projector = losses.Projector(width[0], target[0], seed=task.seed)

    def term(student: Tensor, batch: Batch) -> Tensor:
        return loss(projector(student), batch.responses[answer])

    return Term(name, term, weight, reads), [projector]


# -- layers of white-box methods -------------------------------------------------------------------------------------


def middle_layer(model: nn.Module | str) -> list[str]:
    """The default layer of a hint: "layer 2" of RepDistiller, which counts the stem as layer 0; VGG has no stem."""
    stages = models.stages(model)
    return [stages[2 if len(stages) > 3 else 1]]


def middle_layers(model: nn.Module | str) -> list[str]:
    """All middle layers: every stage of a residual net; all but the first, which is its stem, of VGG."""
    stages = models.stages(model)
    return stages[1:] if len(stages) > 3 else stages


def layer_pairs(
    task: Task, pairs: Mapping[str, str] | None, default: Callable[[nn.Module], Sequence[str]]
) -> dict[str, str]:
    """{student path: teacher path}; by default layers of one name, as within a family of the zoo."""
    if pairs is None:
        pairs = {path: path for path in default(task.model)}
    for path in pairs.values():
        task.response(path)
    return dict(pairs)
