"""Learning rates over a run: a cosine or milestones of fixed length, or the paper's three stages with patience."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tuition.training.settings import TrainSettings

STAGES = (1.0, 0.1, 0.01)
MILESTONES = (5 / 8, 6 / 8, 7 / 8)  # of the epochs: 150, 180 and 210 of the 240 that the paper's teachers have


def cosine(step: int, steps: int) -> float:
    """Factor of the learning rate at `step` of `steps`: from 1 down to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


def milestones(epoch: int, epochs: int) -> float:
    """Factor of the learning rate in an epoch, counted from 0: a tenth after each milestone."""
    return 0.1 ** sum(epoch >= round(share * epochs) for share in MILESTONES)


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


class Schedule:
    """The factors of the learning rate in a training, and the end that validation sets it.

    Args:
        steps: of one epoch.
    """

    def __init__(self, settings: TrainSettings, steps: int) -> None:
        self.settings, self.steps = settings, steps
        self.stages = Stages(settings.patience)  # of a cosine it is one that counts the epochs it has waited
        self.since = 0  # the epochs before the cosine began

    def factor(self, step: int) -> float:
        """The factor at a step of the training, counted from 0."""
        step -= self.since * self.steps
        total = (self.settings.epochs - self.since) * self.steps
        warm_up = self.settings.warm_up
        rising = round(warm_up * (total if warm_up < 1 else self.steps))
        factor = (step + 1) / rising if step < rising else 1.0
        if self.settings.schedule == "stages":
            return factor * self.stages.factor
        if self.settings.schedule == "milestones":
            return factor * milestones(step // self.steps, self.settings.epochs - self.since)
        return factor if step < rising else cosine(step - rising, total - rising)

    def risen(self, step: int) -> float:
        """The weight of unasked inputs at a step: it rises linearly from 0 to 1 in the first fifth of the epochs.

        Of stages, which may end long before their most epochs, in their patience where that is shorter. In a training
        that is continued with a new cosine it has risen.
        """
        if self.since:
            return 1.0
        epochs = self.settings.epochs / 5
        if self.settings.schedule == "stages":
            epochs = min(epochs, self.settings.patience)
        return min(step / (epochs * self.steps), 1.0)

    def lengthen(self, epoch: int) -> None:
        """Go on for more epochs than were planned, from this one. A new cosine begins, and new milestones; stages stay
        as they are.
        """
        if self.settings.schedule != "stages":
            self.since, self.stages.waited = epoch, 0

    def update(self, improved: bool) -> bool:
        """Take the result of an epoch; True where a further stage begins, which starts from the best weights."""
        if self.settings.schedule == "stages":
            # After the last stage the last weights stay, because they are evaluated too.
            return self.stages.update(improved) and not self.stages.finished
        self.stages.waited = 0 if improved else self.stages.waited + 1
        return False

    @property
    def finished(self) -> bool:
        """Whether validation has ended the training before its last epoch."""
        most = self.settings.stop_after
        return self.stages.finished or (most is not None and self.stages.waited >= most)
