"""What a student is trained on: named, weighted loss terms, each naming the student output that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Beside:
    """Inputs without answers that are learned from beside a batch.

    Attributes:
        inputs: strong views (b, ...), or weak ones where the target is known beforehand; of several processes, those
            that this one forwards.
        target: (b, k) outputs of the student's average for weak views, or shares of the answers; of several processes,
            the complete ones.
        weight: of the term.
        own: as of a batch.
    """

    inputs: Tensor
    target: Tensor
    weight: float
    own: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of a transfer set on the device.

    Attributes:
        inputs: raw (augmented) inputs (b, ...); of several processes, those that this one forwards.
        rows: int64 (b,) rows of the transfer set.
        responses: output name -> (b, ...) of the teacher.
        targets: (b, k) label probabilities, one-hot unless mixed; None without labels.
        groups: (p, q) when the batch is m groups of p rows (first m * p rows) against m of q rows; else None.
        epoch: number of epochs that were finished before this one.
        own: int64 positions of the inputs in the batch, where several processes share it; None where all are here.
        beside: inputs without answers, or None.
    """

    inputs: Tensor
    rows: Tensor
    responses: Mapping[str, Tensor]
    targets: Tensor | None = None
    groups: tuple[int, int] | None = None
    own: Tensor | None = None
    epoch: int = 0
    beside: Beside | None = None

    @property
    def labels(self) -> Tensor:
        """Class indices int64 (b,); of mixed inputs the class with the largest share."""
        assert self.targets is not None
        return self.targets.argmax(dim=1)

    def group_indices(self) -> tuple[Tensor, Tensor]:
        """Row indices (m, p) and (m, q) of the two sides of every group."""
        assert self.groups is not None
        p, q = self.groups
        m = len(self.rows) // (p + q)
        index = torch.arange(len(self.rows), device=self.rows.device)
        return index[: m * p].view(m, p), index[m * p :].view(m, q)


@dataclass(frozen=True)
class Term:
    """One loss term: `weight * loss(student_output, batch)`.

    Attributes:
        name: how it is logged.
        loss: called with the student's output (b, ...), a list of them where several are read, and the batch; returns
            a scalar.
        weight: factor in the objective.
        reads: the student output: "logits", or a module path ("stage2", "classifier:input"); or several of them.
        balanced: whether its loss weighs classes by `Task.class_weights`.
    """

    name: str
    loss: Callable[..., Tensor]
    weight: float = 1.0
    reads: str | tuple[str, ...] = "logits"
    balanced: bool = False

    def __call__(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        read = outputs[self.reads] if isinstance(self.reads, str) else [outputs[path] for path in self.reads]
        return self.weight * self.loss(read, batch)

    @property
    def paths(self) -> tuple[str, ...]:
        """The student outputs that are read."""
        return (self.reads,) if isinstance(self.reads, str) else self.reads


class Objective(nn.Module):
    """A sum of terms.

    Args:
        terms: at least one, names distinct.
        modules: the state that terms train or keep (projectors, memories); trained and saved with the run.
        mix: replaces a batch before the student sees it (Mixup, CutMix, the negatives of CRD), drawing from a CPU
            generator.
        groups: (p, q) when batches are groups drawn from the transfer set, both sides forwarded apart.
        groups_drawn: number of groups drawn once and reused; 0 draws new ones every epoch.
        distinct: whether the `groups_drawn` groups all differ, and an epoch takes each at most once, in random order.
        per_class: inputs of each class in a batch, of random classes until it is full; 0 takes batches of all rows.
        recentre: evaluate the student only after `recentre`, for losses that are blind to a constant; the weights of
            the teacher's answers and of the labels in its target.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        modules: Sequence[nn.Module] = (),
        mix: Callable[[Batch, torch.Generator], Batch] | None = None,
        groups: tuple[int, int] | None = None,
        groups_drawn: int = 0,
        distinct: bool = False,
        per_class: int = 0,
        recentre: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if not any(term.weight for term in terms):
            raise ValueError("every weight is 0, so there is nothing to learn; raise one of them.")
        if len({term.name for term in terms}) != len(terms):
            raise ValueError(f"an objective needs terms of distinct names, not {[term.name for term in terms]}.")
        self.terms = tuple(terms)
        self.state = nn.ModuleList(modules)
        self.mix = mix
        self.groups = groups
        self.groups_drawn = groups_drawn
        self.distinct = distinct
        self.per_class = per_class
        self.recentre = recentre

    @property
    def reads(self) -> list[str]:
        """Module paths of the student that the terms read, beside its logits."""
        return sorted({path for term in self.terms for path in term.paths} - {"logits"})

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The weighted terms by name, each a scalar; their sum is the loss."""
        return {term.name: term(outputs, batch) for term in self.terms}
