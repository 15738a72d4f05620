"""Learning rates over a run: a cosine of fixed length, or the paper's three stages with patience."""

from __future__ import annotations

import math
from dataclasses import dataclass

STAGES = (1.0, 0.1, 0.01)


def cosine(step: int, steps: int) -> float:
    """Factor of the learning rate at `step` of `steps`: from 1 down to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


@dataclass
class Stages:
    """The paper's schedule: lr, lr/10, lr/100; a stage ends after `patience` epochs without a better validation."""

    patience: int
    stage: int = 0
    waited: int = 0

    @property
    def factor(self) -> float:
        return STAGES[self.stage]

    def update(self, improved: bool) -> bool:
        """Take the result of an epoch; True when a stage has ended, which restores the best weights."""
        self.waited = 0 if improved else self.waited + 1
        if self.waited < self.patience:
            return False
        self.waited = 0
        self.stage += 1
        return True

    @property
    def finished(self) -> bool:
        return self.stage >= len(STAGES)
