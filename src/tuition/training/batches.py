"""Batches of a transfer set that lives on the device: drawn, viewed and augmented there, with no worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.data import Crop, TransferSet
from tuition.errors import UserError
from tuition.training.objective import Batch, Objective


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
        self.inputs = inputs.to(device)
        self.responses = {name: value.to(device) for name, value in transfer.responses.items()}
        self.targets = self.responses.pop("targets", None)
        self.labels = None if transfer.labels is None else transfer.labels.to(device)
        self.maps = [name for name, value in self.responses.items() if value.ndim == 4]
        self.views = None
        if aligned and augment is not None and self.maps:
            self.views = pool.asked_views(augment).to(device)
        self.augment, self.num_classes, self.device, self.generator = augment, num_classes, device, generator
        self.groups, self.drawn = objective.groups, None
        self.steps = min(math.ceil(len(transfer) / batch_size), len(transfer) // 2)
        if self.groups is not None:
            rows = sum(self.groups)
            if rows > len(transfer):
                raise UserError(f"groups of {self.groups} need {rows} inputs; the transfer set has {len(transfer)}.")
            self.groups_per_step = max(2, min(batch_size, len(transfer)) // rows) if matched else batch_size
            if objective.groups_drawn:
                self.drawn = draw_groups(len(transfer), objective.groups_drawn, rows, generator)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.steps

    def epoch(self) -> Iterator[Batch]:
        """The batches of one epoch. All draws are made when the first is asked for."""
        rows = self._draw()
        parts: Sequence[Tensor | None] = [None] * self.steps
        if self.augment is not None:
            views = self.augment.draw(rows.numel(), (self.inputs.shape[2], self.inputs.shape[3]), self.generator)
            parts = [v.flatten(0, 1) for v in views.to(self.device).view(len(rows), -1, 3).tensor_split(self.steps)]
        for index, part in zip(rows.to(self.device).tensor_split(self.steps), parts, strict=True):
            if self.groups is not None:  # (m, p + q): the p columns are one side, the q columns the other
                p = self.groups[0]
                index = torch.cat([index[:, :p].flatten(), index[:, p:].flatten()])
            inputs = self.inputs[index]
            if self.augment is not None and part is not None:
                inputs = self.augment(inputs, part)
            responses = {name: value[index] for name, value in self.responses.items()}
            if self.views is not None and self.augment is not None and part is not None:
                for name in self.maps:
                    size = self.augment.output_size((self.inputs.shape[2], self.inputs.shape[3]))
                    responses[name] = move(responses[name], self.views[index], part, size)
            yield Batch(inputs, index, responses, self._targets(index), self.groups)

    def _targets(self, index: Tensor) -> Tensor | None:
        if self.targets is not None:  # of mixed inputs, whose labels are shares
            return self.targets[index]
        return None if self.labels is None else F.one_hot(self.labels[index], self.num_classes).float()

    def _draw(self) -> Tensor:
        n = len(self.inputs)
        if self.groups is None:
            return torch.randperm(n, generator=self.generator)
        count = self.steps * self.groups_per_step
        if self.drawn is None:
            return draw_groups(n, count, sum(self.groups), self.generator)
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
