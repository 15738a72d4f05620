"""The exponential average of a student's weights: steadier than the last ones, for one more copy of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tuition import models
from tuition.training.student import Student
from tuition.training.trained import BATCH_NORMS


class Average:
    """A copy of a student that follows it: a_t = d_t a_(t-1) + (1 - d_t) w_t with d_t = min(decay, (1 + t) / (10 + t)).

    The smaller decay of the first steps forgets the initial weights. Floating-point buffers, such as the statistics of
    batch norm, are averaged like weights, because they belong to them. Other buffers, such as counts, are copied.

    Args:
        student: what is followed; the copy is in evaluation mode and needs no gradient.
        decay: from 0 to 1, exclusive.

    Source: Tarvainen and Valpola, Mean teachers are better role models, arXiv 1703.01780; the smaller decay of the
    first steps is TensorFlow's, tf.train.ExponentialMovingAverage.
    """

    def __init__(self, student: Student, decay: float) -> None:
        self.followed, self.decay = student, decay
        self.student = models.copied(student).eval().requires_grad_(False)
        for module in self.student.modules():
            if isinstance(module, BATCH_NORMS):
                module.track_running_stats = False  # in training mode; evaluation mode reads them as before

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the student's weights after a step, counted from 0."""
        # Not by the names of a state, so that what modules share is averaged once.
        pairs = list(zip(_tensors(self.student), _tensors(self.followed), strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([mine for mine, _ in averaged], [now for _, now in averaged], share)
        for mine, now in pairs:
            if not mine.is_floating_point():
                mine.copy_(now)

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (n, k) that the student is to learn, by the statistics of this batch where it trains with them.

        Running statistics would do for batch norms in evaluation mode, but a student that chases such outputs may run
        away: what the two kinds of statistics differ by grows from step to step.
        """
        for mine, its in zip(self.student.modules(), self.followed.modules(), strict=True):
            if isinstance(mine, BATCH_NORMS):
                mine.train(its.training)
        try:
            outputs: Tensor = self.student(inputs)
            return outputs
        finally:
            self.student.eval()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
