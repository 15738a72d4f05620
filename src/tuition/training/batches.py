"""Batches of a transfer set: drawn, viewed and augmented on the device, with no worker processes.

Inputs live on the device, too, unless they take more than `IN_MEMORY`: then the rows of each batch are fetched from
where they are by a thread that works ahead. Either way the same seed gives the same batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.data import Crop, TransferSet, ondisk
from tuition.errors import UserError
from tuition.training.epochs import epoch_rows
from tuition.training.objective import Batch, Objective

AHEAD = 4  # batches that are fetched early

A = TypeVar("A")
B = TypeVar("B")


class Batches:
    """The batches of every epoch, drawn by one CPU generator.

    Which rows each has is said in `epochs`.
    """

    def __init__(
        self,
        transfer: TransferSet,
        objective: Objective,
        *,
        batch_size: int,
        augment: Crop | None,
        num_classes: int,
        device: torch.device,
        generator: torch.Generator,
        matched: bool = False,
        aligned: bool = False,
        short: bool = False,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if len(transfer) < 2:
            raise UserError(
                f"a student is trained on at least 2 inputs, not {len(transfer)}; ask for more teacher calls."
            )
        if transfer.pool.kind == "texts":
            raise UserError("this student needs images or vectors; encode the texts first.")
        pool = transfer.pool
        self.augment, self.device, self.generator = augment, device, generator
        # Without augmentation the student sees what the teacher was asked about.
        self.source = pool if augment is None else pool.view(None)
        sample = self.source.asked_tensor(slice(1))
        self.size = (sample.shape[-2], sample.shape[-1])
        self.inputs = None
        if pool.nbytes <= ondisk.IN_MEMORY:
            self.inputs = self._held(self.source.asked_tensor().to(device))
        self.responses = {name: value.to(device) for name, value in transfer.responses.items()}
        self.targets = self.responses.pop("targets", None)  # of mixed inputs, whose labels are shares
        self.labels, self.num_classes = None, num_classes
        if self.targets is None and transfer.labels is not None:
            self.labels = transfer.labels.to(device)
        self.maps = [name for name, value in self.responses.items() if value.ndim == 4]
        self.views = None
        if aligned and augment is not None and self.maps:
            self.views = pool.asked_views(augment).to(device)
        self.mix, self.rank, self.processes = objective.mix, rank, processes
        self.groups = objective.groups
        self.rows = epoch_rows(
            objective, len(transfer), self.labels, generator, batch_size=batch_size, short=short, matched=matched
        )
        units, what = self.rows.smallest, "rows" if self.groups is None else "groups"
        if processes > 1 and units < 2 * processes:  # batch norm needs two in each
            raise UserError(
                f"batches of {units} {what} are too small for {processes} processes; "
                f"use up to {max(1, units // 2)} processes, or larger batches."
            )

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.rows.steps

    def epoch(self) -> Iterator[Batch]:
        """The batches of one epoch."""
        return (self.batch(*drawn) for drawn in self.draw())

    def draw(self) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """Rows (b,) and, with augmentation, views (b, 3) of each batch of an epoch, drawn and copied all at once.

        Then, where they do not live on the device, the inputs (b, ...) themselves.
        """
        rows, sizes = self.rows.draw(self.generator)
        views: Iterable[Tensor | None] = repeat(None)
        if self.augment is not None:
            drawn = self.augment.draw(rows.numel(), self.size, self.generator).to(self.device)
            views = map(self._sides, drawn.view(*rows.shape, 3).split(sizes))
        parts = map(self._sides, rows.to(self.device).split(sizes))
        if self.inputs is not None:
            yield from zip(parts, views, repeat(None), strict=False)
        else:
            sources = map(self._sides, rows.split(sizes))
            yield from ahead(self._fetched, zip(parts, views, sources, strict=False))

    def batch(self, rows: Tensor, views: Tensor | None, inputs: Tensor | None = None) -> Batch:
        """The batch of these rows (b,), seen through these views (b, 3), and mixed where the method mixes.

        Of several processes, with the inputs of this one's share. Nothing waits for the device.
        """
        own = None if self.processes == 1 else self._share(len(rows), self.groups)
        seen = slice(None) if own is None or self.mix is not None else own  # a mix needs all inputs
        if inputs is None:
            assert self.inputs is not None
            inputs = self._seen(self.inputs, rows[seen], None if views is None else views[seen])
        else:
            inputs = inputs[seen]
        responses = {name: value[rows] for name, value in self.responses.items()}
        if self.views is not None and views is not None:
            size = (inputs.shape[2], inputs.shape[3])
            responses |= {name: move(responses[name], self.views[rows], views, size) for name in self.maps}
        batch = Batch(inputs, rows, responses, self._targets(rows), self.groups, own)
        if self.mix is None:
            return batch
        batch = self.mix(batch, self.generator)
        if own is None:
            return batch
        own = self._share(len(batch.rows), batch.groups)  # a mix may make one row of two
        return replace(batch, inputs=batch.inputs[own], own=own)

    def _share(self, rows: int, groups: tuple[int, int] | None) -> Tensor:
        """Positions in a batch of `rows` of those that this process forwards, in equal numbers to within one.

        Of groups (see `Batch`) each process has complete ones, in the same order of sides.
        """
        p, q = groups if groups is not None else (1, 0)
        m = rows // (p + q)
        left, right = (torch.arange(size, device=self.device) for size in (p, q))
        mine = torch.arange(m, device=self.device).tensor_split(self.processes)[self.rank][:, None]
        return torch.cat([(mine * p + left).flatten(), (m * p + mine * q + right).flatten()])

    def _held(self, inputs: Tensor) -> Tensor:
        """Raw inputs (n, ...) as they are indexed: channels last, in every view that may be drawn."""
        return inputs.movedim(1, -1).contiguous() if self.augment is None else self.augment.windows(inputs)

    def _seen(self, held: Tensor, rows: Tensor, views: Tensor | None) -> Tensor:
        if self.augment is None or views is None:
            return held[rows].movedim(-1, 1)
        return self.augment.cut(held, rows, views)

    def _fetched(self, drawn: tuple[Tensor, Tensor | None, Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        rows, views, source_rows = drawn
        inputs = self.source.asked_tensor(source_rows)
        if self.device.type == "cuda":
            inputs = inputs.pin_memory()
        held = self._held(inputs.to(self.device, non_blocking=True))
        return rows, views, self._seen(held, torch.arange(len(rows), device=self.device), views)

    def _targets(self, rows: Tensor) -> Tensor | None:
        # Not made for all rows at once: of millions they would take far more than the inputs.
        if self.labels is None:
            return None if self.targets is None else self.targets[rows]
        zeros = torch.zeros(len(rows), self.num_classes, device=rows.device)
        return zeros.scatter_(1, self.labels[rows][:, None], 1.0)

    def _sides(self, x: Tensor) -> Tensor:
        """Of groups (m, p + q, ...) first all of the one side, then all of the other."""
        if self.groups is None:
            return x
        p = self.groups[0]
        return torch.cat([x[:, :p].flatten(0, 1), x[:, p:].flatten(0, 1)])


def ahead(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`map` in a thread that is a few items ahead."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def move(maps: Tensor, teacher: Tensor, student: Tensor, size: tuple[int, int]) -> Tensor:
    """Feature maps of the view that the teacher saw, moved to where the view of the student has them.

    Crop and flip are applied to the map, between its cells bilinearly; what lies outside it is zero.

    Args:
        maps: (b, c, h, w).
        teacher, student: (b, 3) top, left, flip of both views, in pixels of one frame.
        size: height and width of the views in pixels.
    """
    sign = 1 - 2 * torch.stack([teacher[:, 2], student[:, 2]]).float()
    # A view's own coordinates run from -1 to 1; both views are mapped to the image and back.
    theta = maps.new_zeros(len(maps), 2, 3, dtype=torch.float32)
    theta[:, 0, 0] = sign[0] * sign[1]
    theta[:, 0, 2] = sign[0] * 2 * (student[:, 1] - teacher[:, 1]) / size[1]
    theta[:, 1, 1] = 1
    theta[:, 1, 2] = 2 * (student[:, 0] - teacher[:, 0]) / size[0]
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps.float(), grid, align_corners=False)
