"""Which rows each batch of an epoch has: every row once, groups to compare, or a number of rows of each class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.training.objective import Objective


class EpochRows(Protocol):
    """The rows of the batches of an epoch.

    Attributes:
        steps: batches of an epoch.
        smallest: rows, or groups of them, of the smallest batch.
    """

    @property
    def steps(self) -> int: ...

    @property
    def smallest(self) -> int: ...

    def draw(self, generator: torch.Generator) -> tuple[Tensor, list[int]]:
        """Rows (n,), or groups of them (n, p + q), of an epoch, and how many of these each batch has."""
        ...


def epoch_rows(
    objective: Objective,
    rows: int,
    labels: Tensor | None,
    generator: torch.Generator,
    *,
    batch_size: int,
    short: bool,
    matched: bool,
) -> EpochRows:
    """As an objective needs them, of this number of rows.

    Raises:
        UserError: there are too few rows, or no labels where it takes rows by class.
    """
    if objective.per_class:
        if labels is None:
            raise UserError("batches of inputs by class need labels; set options.per_class=0.")
        return ByClass(labels.cpu(), objective.per_class, batch_size)
    if objective.groups is None:
        return EveryRow(sizes_of(rows, batch_size, short))
    inputs = sum(objective.groups)
    if inputs > rows:
        raise UserError(f"groups of {objective.groups} need {inputs} inputs; the transfer set has {rows}.")
    fewer = matched and objective.mix is None  # of mixed groups, a step forwards one input each
    each = max(2, min(batch_size, rows) // inputs) if fewer else batch_size
    steps = len(sizes_of(rows, batch_size, short=False))
    if objective.distinct:
        return DistinctGroups(distinct_groups(rows, objective.groups_drawn, objective.groups, generator), steps, each)
    drawn = draw_groups(rows, objective.groups_drawn, inputs, generator) if objective.groups_drawn else None
    return Groups(rows, inputs, drawn, steps, each)


@dataclass(frozen=True)
class EveryRow:
    """Every row once, in ceil(n / batch_size) batches of equal size to within one row, or with a short last one."""

    sizes: list[int]

    @property
    def steps(self) -> int:
        return len(self.sizes)

    @property
    def smallest(self) -> int:
        return min(self.sizes)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, list[int]]:
        return torch.randperm(sum(self.sizes), generator=generator), self.sizes


@dataclass(frozen=True)
class Groups:
    """`smallest` groups of `inputs` rows in each of the steps that a plain epoch has: new ones, or some of `drawn`."""

    rows: int
    inputs: int
    drawn: Tensor | None
    steps: int
    smallest: int

    def draw(self, generator: torch.Generator) -> tuple[Tensor, list[int]]:
        count, sizes = self.steps * self.smallest, [self.smallest] * self.steps
        if self.drawn is None:
            return draw_groups(self.rows, count, self.inputs, generator), sizes
        return self.drawn[torch.randint(len(self.drawn), (count,), generator=generator)], sizes


@dataclass(frozen=True)
class DistinctGroups:
    """`smallest` of the groups (m, p + q) in each step; none is repeated before all have been taken."""

    groups: Tensor
    steps: int
    smallest: int

    def draw(self, generator: torch.Generator) -> tuple[Tensor, list[int]]:
        count = self.steps * self.smallest
        rounds = math.ceil(count / len(self.groups))  # one, unless there are few inputs
        order = torch.cat([torch.randperm(len(self.groups), generator=generator) for _ in range(rounds)])
        return self.groups[order[:count]], [self.smallest] * self.steps


@dataclass(frozen=True)
class ByClass:
    """`per_class` rows of each of some random classes, up to the size of a batch, in the steps of a plain epoch."""

    labels: Tensor
    per_class: int
    batch_size: int

    @property
    def steps(self) -> int:
        return len(sizes_of(len(self.labels), self.batch_size, short=False))

    @property
    def smallest(self) -> int:
        return min(self.batch_size, int(self.labels.bincount().clamp(max=self.per_class).sum()))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, list[int]]:
        drawn = [draw_classes(self.labels, self.per_class, self.batch_size, generator) for _ in range(self.steps)]
        return torch.cat(drawn), [len(rows) for rows in drawn]


def sizes_of(rows: int, batch_size: int, short: bool) -> list[int]:
    """Rows of each batch of an epoch. None is a single row, of which batch norm would know no variance."""
    if short and rows > batch_size:
        full, rest = divmod(rows, batch_size)
        return [batch_size] * (full - (rest == 1)) + ([batch_size + 1] if rest == 1 else [rest] if rest else [])
    steps = min(math.ceil(rows / batch_size), rows // 2)
    return [rows // steps + (step < rows % steps) for step in range(steps)]


def draw_classes(labels: Tensor, per_class: int, most: int, generator: torch.Generator) -> Tensor:
    """Rows of random classes, `per_class` of each (all of a class that has fewer), until there are `most`."""
    shuffled = torch.randperm(len(labels), generator=generator)
    place = torch.randperm(int(labels.max()) + 1, generator=generator)[labels[shuffled]]  # of each row's class
    order = place.argsort(stable=True)
    counts = place.bincount()
    within = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[place[order]]
    return shuffled[order][within < per_class][:most]


def distinct_groups(rows: int, count: int, groups: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(count, p + q) row indices of comparisons that all differ; fewer where there are not that many.

    Groups of the same rows are the same, whatever their order; so are, for p = q, the two sides exchanged.
    """
    p, q = groups
    possible = math.comb(rows, p) * math.comb(rows - p, q) // (2 if p == q else 1)
    found = torch.empty(0, p + q, dtype=torch.long)
    while len(found) < min(count, possible):
        new = draw_groups(rows, count, p + q, generator)
        left, right = new[:, :p].sort(dim=1).values, new[:, p:].sort(dim=1).values
        if p == q:
            swap = (left[:, :1] > right[:, :1]).expand(-1, p)  # no row is on both sides
            left, right = left.where(~swap, right), right.where(~swap, left)
        found = torch.cat([found, torch.cat([left, right], dim=1)]).unique(dim=0)
    return found[torch.randperm(len(found), generator=generator)[:count]]


def draw_groups(rows: int, count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, size) row indices, without replacement within a group, uniformly over ordered groups."""
    # Floyd-like insertion: draw from the rows that are left, then step over those taken.
    taken = torch.empty(count, 0, dtype=torch.long)
    for k in range(size):
        new = torch.randint(rows - k, (count,), generator=generator)
        for earlier in taken.sort(dim=1).values.unbind(1):
            new += new >= earlier
        taken = torch.cat([taken, new[:, None]], dim=1)
    return taken
