"""Batches of a transfer set that lives on the device: drawn, viewed and augmented there, with no worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.data import Crop, TransferSet
from tuition.errors import UserError
from tuition.training import parallel
from tuition.training.objective import Batch, Objective, Share


class Batches:
    """The batches of every epoch, drawn by one CPU generator.

    A plain epoch sees every row once, in ceil(n / batch_size) batches of equal size to within one row, so that none is
    ever a single row. An epoch of groups has as many steps, each of `groups_per_step` groups.
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
    ) -> None:
        if len(transfer) < 2:
            raise UserError(
                f"a student is trained on at least 2 inputs, not {len(transfer)}; ask for more teacher calls."
            )
        if not isinstance(transfer.inputs, Tensor):
            raise UserError("this student needs images or vectors; encode the texts first.")
        pool = transfer.pool
        # Without augmentation the student sees what the teacher was asked about.
        inputs = transfer.inputs if augment is not None else pool.asked()
        assert isinstance(inputs, Tensor)
        self.size = (inputs.shape[-2], inputs.shape[-1])
        inputs = inputs.to(device)
        self.inputs = inputs.movedim(1, -1).contiguous() if augment is None else augment.windows(inputs)
        self.responses = {name: value.to(device) for name, value in transfer.responses.items()}
        self.targets = self.responses.pop("targets", None)  # of mixed inputs, whose labels are shares
        if self.targets is None and transfer.labels is not None:
            self.targets = F.one_hot(transfer.labels, num_classes).float().to(device)
        self.maps = [name for name, value in self.responses.items() if value.ndim == 4]
        self.views = None
        if aligned and augment is not None and self.maps:
            self.views = pool.asked_views(augment).to(device)
        self.augment, self.device, self.generator = augment, device, generator
        self.mix, self.gathers = objective.mix, objective.gathers
        self.rows, self.groups, self.drawn = len(transfer), objective.groups, None
        self.steps = min(math.ceil(len(transfer) / batch_size), len(transfer) // 2)
        if self.groups is not None:
            rows = sum(self.groups)
            if rows > len(transfer):
                raise UserError(f"groups of {self.groups} need {rows} inputs; the transfer set has {len(transfer)}.")
            self.groups_per_step = max(2, min(batch_size, len(transfer)) // rows) if matched else batch_size
            if objective.groups_drawn:
                self.drawn = draw_groups(len(transfer), objective.groups_drawn, rows, generator)
        if self.groups is None:
            parallel.check_share(len(transfer) // self.steps, "rows")
        else:
            parallel.check_share(self.groups_per_step, "groups")

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.steps

    def epoch(self) -> Iterator[Batch]:
        """The batches of one epoch."""
        return (self.batch(rows, views) for rows, views in self.draw())

    def draw(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Rows (b,) and, with augmentation, views (b, 3) of each batch of an epoch, drawn and copied all at once."""
        rows = self._draw_rows()
        views: Sequence[Tensor | None] = [None] * self.steps
        if self.augment is not None:
            drawn = self.augment.draw(rows.numel(), self.size, self.generator).to(self.device)
            views = drawn.view(*rows.shape, 3).tensor_split(self.steps)
        for part, seen in zip(rows.to(self.device).tensor_split(self.steps), views, strict=True):
            yield self._sides(part), None if seen is None else self._sides(seen)

    def batch(self, rows: Tensor, views: Tensor | None) -> Batch:
        """The batch of these rows (b,), seen through these views (b, 3), and mixed where the method mixes.

        With several processes, this one's share of it. Nothing waits for the device.
        """
        if parallel.count() == 1:
            return self._batch(rows, views)
        index = parallel.share(len(rows), self.groups, self.device)
        if self.mix is None and not self.gathers:
            part = self._batch(rows[index], None if views is None else views[index])
            return replace(part, share=Share(index, len(rows), None))
        whole = self._batch(rows, views)
        return replace(whole.at(index), share=Share(index, len(rows), whole))

    def _batch(self, rows: Tensor, views: Tensor | None) -> Batch:
        responses = {name: value[rows] for name, value in self.responses.items()}
        if self.augment is None or views is None:
            inputs = self.inputs[rows].movedim(-1, 1)
        else:
            inputs = self.augment.cut(self.inputs, rows, views)
            if self.views is not None:
                size = (inputs.shape[2], inputs.shape[3])
                responses |= {name: move(responses[name], self.views[rows], views, size) for name in self.maps}
        targets = None if self.targets is None else self.targets[rows]
        batch = Batch(inputs, rows, responses, targets, self.groups)
        return batch if self.mix is None else self.mix(batch, self.generator)

    def _sides(self, x: Tensor) -> Tensor:
        """Of groups (m, p + q, ...) first all of the one side, then all of the other."""
        if self.groups is None:
            return x
        p = self.groups[0]
        return torch.cat([x[:, :p].flatten(0, 1), x[:, p:].flatten(0, 1)])

    def _draw_rows(self) -> Tensor:
        if self.groups is None:
            return torch.randperm(self.rows, generator=self.generator)
        count = self.steps * self.groups_per_step
        if self.drawn is None:
            return draw_groups(self.rows, count, sum(self.groups), self.generator)
        return self.drawn[torch.randint(len(self.drawn), (count,), generator=self.generator)]


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


def move(maps: Tensor, asked: Tensor, seen: Tensor, size: tuple[int, int]) -> Tensor:
    """Feature maps of the view that was asked about, as they would lie for the view that is seen.

    Crop and flip are applied to the map, between its cells bilinearly; what lies outside it is zero.

    Args:
        maps: (b, c, h, w).
        asked, seen: (b, 3) top, left, flip of both views, in pixels of one frame.
        size: height and width of the views in pixels.
    """
    sign = 1 - 2 * torch.stack([asked[:, 2], seen[:, 2]]).float()
    # A view's own coordinates run from -1 to 1; both views are mapped to the image and back.
    theta = maps.new_zeros(len(maps), 2, 3, dtype=torch.float32)
    theta[:, 0, 0] = sign[0] * sign[1]
    theta[:, 0, 2] = sign[0] * 2 * (seen[:, 1] - asked[:, 1]) / size[1]
    theta[:, 1, 1] = 1
    theta[:, 1, 2] = 2 * (seen[:, 0] - asked[:, 0]) / size[0]
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps.float(), grid, align_corners=False)
