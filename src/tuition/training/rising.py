"""Whether a training ended too early, by its validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, linear_regression

MORE = "Validation was still rising at the last epoch; more epochs may help, and cost no calls"
FEWEST = 3  # epochs of a part, which is a tenth of the training or these
CLEAR, WORTH = 2.5, 0.5  # standard errors, and percentage points, that a rise must exceed


def still_rising(validation: Sequence[float]) -> bool:
    """Whether validation, in percent after each epoch, was still rising at the end.

    The mean over the last tenth of the epochs is then the highest of all means over this number of epochs in a row. It
    is above the mean over the tenth before by half a point, and by more than its noise, which is that of single epochs
    around a straight line through both tenths. False where there are fewer than six epochs.
    """
    size = max(FEWEST, len(validation) // 10)
    if len(validation) < 2 * size:
        return False
    means = [fmean(validation[i : i + size]) for i in range(len(validation) - size + 1)]
    rise, last = means[-1] - means[-1 - size], validation[-2 * size :]
    line = linear_regression(range(2 * size), last)
    squares = sum((value - line.intercept - line.slope * i) ** 2 for i, value in enumerate(last))
    noise = math.sqrt(squares / (2 * size - 2) * 2 / size)
    return means[-1] == max(means) and rise >= WORTH and rise > CLEAR * noise
