"""What a student is trained on: named, weighted loss terms, each naming the student output that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tuition.training import parallel

Over = Literal["batch", "rows", "sums"]


@dataclass(frozen=True)
class Batch:
    """Rows of a transfer set on the device.

    Attributes:
        inputs: raw (augmented) inputs (b, ...).
        rows: int64 (b,) rows of the transfer set.
        responses: output name -> (b, ...) of the teacher.
        targets: (b, k) label probabilities, one-hot unless mixed; None without labels.
        groups: (p, q) when the batch is m groups of p rows (first m * p rows) against m of q rows; else None.
        share: what these rows are of the batch of all processes; None where there is but one.
    """

    inputs: Tensor
    rows: Tensor
    responses: Mapping[str, Tensor]
    targets: Tensor | None = None
    groups: tuple[int, int] | None = None
    share: Share | None = None

    def at(self, index: Tensor) -> Batch:
        """The batch of the rows at these positions."""
        return Batch(
            self.inputs[index],
            self.rows[index],
            {name: value[index] for name, value in self.responses.items()},
            None if self.targets is None else self.targets[index],
            self.groups,
        )

    def group_indices(self) -> tuple[Tensor, Tensor]:
        """Row indices (m, p) and (m, q) of the two sides of every group."""
        assert self.groups is not None
        p, q = self.groups
        m = len(self.rows) // (p + q)
        index = torch.arange(len(self.rows), device=self.rows.device)
        return index[: m * p].view(m, p), index[m * p :].view(m, q)


@dataclass(frozen=True)
class Share:
    """The part of a batch that one of several processes forwards.

    Attributes:
        index: int64 (b,) positions of its rows in the whole batch.
        rows: number of rows of the whole batch.
        whole: the whole batch, where a term needs it; else None.
    """

    index: Tensor
    rows: int
    whole: Batch | None


@dataclass(frozen=True)
class Term:
    """One loss term: `weight * loss(student_output, batch)`.

    With several processes, each of which forwards its share of the batch, the mean over the processes of the term's
    value and of its gradient is that of the whole batch. `over` says how: the loss of every process is of
    "batch": the whole batch, for which the outputs it reads are gathered. This is right for any loss.
    "rows": its own rows or groups, and the loss is their mean, so that it counts by their number.
    "sums": its own rows, and the loss, called with the process `group` too, sums over the processes by itself.

    Attributes:
        name: how it is logged.
        loss: called with the student's output (b, ...), a list of them where several are read, and the batch; returns
            a scalar.
        weight: factor in the objective.
        reads: the student output: "logits", or a module path ("stage2", "classifier:input"); or several of them.
        over: "batch", "rows" or "sums", see above.
    """

    name: str
    loss: Callable[..., Tensor]
    weight: float = 1.0
    reads: str | tuple[str, ...] = "logits"
    over: Over = "batch"

    def __call__(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        share = batch.share
        if share is not None and self.over == "batch":
            assert share.whole is not None
            outputs = {p: parallel.gather(outputs[p], share.index, share.rows) for p in self.paths}
            batch = share.whole
        read = outputs[self.reads] if isinstance(self.reads, str) else [outputs[path] for path in self.reads]
        if share is None or self.over == "batch":
            return self.weight * self.loss(read, batch)
        if self.over == "sums":
            return self.weight * self.loss(read, batch, group=dist.group.WORLD)
        return self.weight * (len(share.index) * parallel.count() / share.rows) * self.loss(read, batch)

    @property
    def paths(self) -> tuple[str, ...]:
        """The student outputs that are read."""
        return (self.reads,) if isinstance(self.reads, str) else self.reads


class Objective(nn.Module):
    """A sum of terms.

    Args:
        terms: at least one, names distinct.
        modules: the state that terms train or keep (projectors, memories); trained and saved with the run.
        mix: replaces a batch before the student sees it (Mixup, CutMix), drawing from a CPU generator.
        groups: (p, q) when batches are groups drawn from the transfer set, both sides forwarded apart.
        groups_drawn: number of groups drawn once and reused; 0 draws anew for every epoch.
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
        recentre: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if not terms or len({term.name for term in terms}) != len(terms):
            raise ValueError(f"an objective needs terms of distinct names, not {[term.name for term in terms]}.")
        self.terms = tuple(terms)
        self.state = nn.ModuleList(modules)
        self.mix = mix
        self.groups = groups
        self.groups_drawn = groups_drawn
        self.recentre = recentre

    @property
    def reads(self) -> list[str]:
        """Module paths of the student that the terms read, beside its logits."""
        return sorted({path for term in self.terms for path in term.paths} - {"logits"})

    @property
    def gathers(self) -> bool:
        """Whether a term needs the batch of all processes."""
        return any(term.over == "batch" for term in self.terms)

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The weighted terms by name, each a scalar; their sum is the loss."""
        return {term.name: term(outputs, batch) for term in self.terms}
