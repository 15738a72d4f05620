"""Are a teacher's answers better than chance? What is looked at while they are bought, from logits and labels alone.

Three things tell of answers that are not worth paying for:

*Constant.* Answers to different inputs are equal, up to rounding. This needs no labels.

*Not better than chance.* Two figures of n labelled answers are compared with what they would be if the labels were
shuffled: the share of rows whose highest logit is the label, and the mean rank of the label among the logits of its row
(0 the lowest, 1 the highest, ties share), which shows a weak teacher of many classes much sooner. With two classes the
rank is that of the difference of the logits among all rows (the area under the ROC curve), because a good teacher of a
rare class may never answer with it. Of any such
statistic T = sum_i A[i, i], where A[i, j] compares answer i with label j, shuffling gives the mean sum_ij A[i, j] / n
and the variance sum_ij D[i, j]^2 / (n - 1), where D is A without its row and column means (Hoeffding, A combinatorial
central limit theorem, 1951). Both are exact, also for classes of unequal size and for a teacher that prefers some.
`score` is the larger z = (T - mean) / sd of the two. A teacher that is worth its calls, even a weak one, has a score
that grows at least as DRIFT sqrt(n). So a look stops the ask below DRIFT sqrt(n) - MARGIN, where MARGIN leaves 1 % of
such teachers at each look, and at LAST answers below the 5 % point of the normal distribution.
At least 95 % of the answers of one class, which at most 60 % of the inputs have, are the same fault.

*Far better under another order.* A one-to-one map of answered to labelled classes that fits one half of the answers
best (the assignment problem) is measured on the other half, and the other way round, against the answers as they
are: rows that only the map gets right against rows that only the answers get right. It counts where it wins by a tenth
of all rows, and the sign test puts the odds of this below 1 to 10,000.

Asks of 1,000 calls that are stopped, and after how many calls on average, by simulation (tests/store/test_agreement.py,
300 asks each; a label's logit is raised above normal noise):

    teacher                      classes   first batch of 16   first batch of 64
    honest, 90, 64 or 30 %            10          0 %                 0 %
    honest, 95 %, 70 %                 2          0 %                 0 %
    honest, 60 %                       2        1.0 %                 0 %
    honest, 64, 15 or 5 %            100          0 %                 0 %
    90 %, all classes moved           10        100 %,  28          100 %,  64
    64 %, all classes moved           10        100 %,  39          100 %,  64
    90 %, classes swapped              2        100 %,  16          100 %,  64
    70 %, classes swapped              2        100 %,  29          100 %,  64
    90 %, all classes moved          100        100 %,  57          100 %,  70
    64 %, all classes moved          100       99.7 %,  67         99.7 %,  82
    guesses                           10       97.3 %,  96         96.7 %, 109
    guesses                            2       95.0 %, 234         95.0 %, 238
    guesses                          100       98.7 %,  97         98.7 %, 109
    90 %, inputs 255 times too small  10       97.0 %,  33         97.0 %,  64
    90 %, the same                     2       95.7 %,  35         92.3 %,  64
    90 %, the same                   100       98.3 %,  33         98.0 %,  64
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

FEWEST, ENOUGH, LAST = 8, 64, 512  # labelled answers: to look at, to be content with, to decide by at the latest
DRIFT = {2: 0.2}  # by the number of classes: 60 % right of two
USUAL_DRIFT = 0.35  # 50 % right of three, 5 % of a hundred
MARGIN, CLEAR, DOUBTFUL = 2.33, 3.0, 1.645
ONE_CLASS, ITS_SHARE = 0.95, 0.6
GAIN, ODDS = 0.1, 1e-4
ROUNDING, SUM = 1e-5, 1e-3

CHANCE = "the answers are not better than chance"
ORDER = "Compare the order of its classes with the data's"
PROBABILITIES = "the answers look like probabilities; return logits, or their logarithms"
SCALE = "Check the scale and the form of its inputs"

Verdict = Literal["good", "unclear", "bad"]


@dataclass(frozen=True)
class Judgement:
    """What a look at answers has shown.

    Attributes:
        inputs: labelled answers, or all of them where none are labelled.
        accuracy, chance: percent of the labels that answers agree with, and would with shuffled labels.
        score: how far this is above chance, in standard deviations; nan without labels.
        verdict: "bad" should stop an ask; "unclear" needs more answers.
        reason, advice: what is bad, and what to look at.
        certain: whether this cannot be chance: constant answers, or another order of classes.
    """

    inputs: int
    accuracy: float = math.nan
    chance: float = math.nan
    score: float = math.nan
    verdict: Verdict = "unclear"
    reason: str = ""
    advice: str = ""
    certain: bool = False

    @property
    def too_few(self) -> bool:
        """Whether there are labels, but too few to tell right answers from wrong ones."""
        return self.verdict == "unclear" and self.inputs < ENOUGH and self.score < CLEAR

    def __str__(self) -> str:
        return f"{self.accuracy:.1f} % beside chance {self.chance:.1f} % on {self.inputs:,} labelled answers"


def judge(outputs: Tensor, labels: Tensor | None, *, hard: bool = False) -> Judgement:
    """Judge answers (n, k) to n different inputs by their labels (n,); None without labels, or for embeddings.

    Equal `hard` labels are not a fault by themselves, because most inputs may be of one class.
    """
    if not hard and len(outputs) >= FEWEST and is_constant(outputs):
        reason = "the answers to different inputs are all the same"
        return Judgement(len(outputs), verdict="bad", reason=reason, advice=SCALE, certain=True)
    if labels is None:
        return Judgement(len(outputs), verdict="good" if len(outputs) >= FEWEST else "unclear")
    predicted, n = outputs.argmax(dim=1), len(labels)
    accuracy = 100.0 * float((predicted == labels).double().mean())
    chance, agreeing, ranking = shuffled(outputs, labels)
    score = max(agreeing, ranking)
    reason, advice, certain = _fault(outputs, labels, predicted, agreeing, score)
    clear = (score >= CLEAR and n >= ENOUGH) or n >= LAST
    verdict: Verdict = "bad" if reason else "good" if clear else "unclear"
    return Judgement(n, accuracy, chance, score, verdict, reason, advice, certain)


def _fault(outputs: Tensor, labels: Tensor, predicted: Tensor, agreeing: float, score: float) -> tuple[str, str, bool]:
    """What is wrong with labelled answers, what to look at, and whether this is certain; "" where nothing is known."""
    n, k = len(labels), outputs.shape[1]
    if n < FEWEST or len(labels.unique()) < 2:
        return "", "", False
    gain, before, after = reordered(predicted, labels)
    if gain:
        return (
            f"in another order of classes {after:.0f} % of the answers would be right, not {before:.0f} %",
            ORDER,
            True,
        )
    values, counts = predicted.unique(return_counts=True)
    share, theirs = float(counts.max()) / n, float((labels == values[counts.argmax()]).double().mean())
    if n >= FEWEST * 4 and share >= ONE_CLASS and theirs <= ITS_SHARE and (k > 2 or agreeing < MARGIN):
        what = f"{100 * share:.0f} % of the answers are one class, which {100 * theirs:.0f} % of the inputs have"
        return what, SCALE, False
    bound = min(DOUBTFUL, DRIFT.get(k, USUAL_DRIFT) * math.sqrt(n) - MARGIN)
    if score < (DOUBTFUL if n >= LAST else bound):
        return CHANCE, f"{ORDER}, and {SCALE[0].lower()}{SCALE[1:]}", False
    return "", "", False


def is_constant(outputs: Tensor) -> bool:
    """Whether all rows (n, ...) are equal up to rounding."""
    rows = outputs.flatten(1).double()
    return bool((rows - rows[:1]).abs().max() <= ROUNDING * rows.abs().max())


def are_probabilities(outputs: Tensor) -> bool:
    """Whether rows (n, k) of two or more values are nowhere negative, and each sums to 1."""
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return False
    return bool((outputs >= 0).all() and ((outputs.double().sum(dim=1) - 1).abs() <= SUM).all())


def shuffled(outputs: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """The agreement that shuffled labels would have, in percent, and the scores by the highest logits and by ranks."""
    top = torch.nn.functional.one_hot(outputs.argmax(dim=1), outputs.shape[1]).double()
    agree = top[:, labels]
    ranked = ranks(outputs)
    if outputs.shape[1] == 2:
        (second,) = ranks((outputs[:, 1] - outputs[:, 0])[None])
        ranked = torch.stack([1 - second, second], dim=1)
    return 100.0 * float(agree.mean()), z(agree), z(ranked[:, labels])


def ranks(outputs: Tensor) -> Tensor:
    """The rank (n, k) of each logit in its row, from 0 to 1; equal ones share theirs."""
    outputs = outputs.contiguous()
    ordered = outputs.sort(dim=1).values
    below, upto = (torch.searchsorted(ordered, outputs, right=right) for right in (False, True))
    return (below + upto - 1).double() / (2 * max(1, outputs.shape[1] - 1))


def z(table: Tensor) -> float:
    """How far the trace of a table (n, n) is above its mean over all orders of its columns, in standard deviations."""
    n = len(table)
    if n < 2:
        return 0.0
    centred = table - table.mean(0, keepdim=True) - table.mean(1, keepdim=True) + table.mean()
    variance = float(centred.square().sum()) / (n - 1)
    return float(centred.diagonal().sum()) / math.sqrt(variance) if variance > 1e-9 else 0.0


def reordered(predicted: Tensor, labels: Tensor) -> tuple[bool, float, float]:
    """Whether another order of classes is far better, and the percent right as they are and in that order."""
    wins = losses = before = after = 0
    for fitted in (slice(0, None, 2), slice(1, None, 2)):
        held_out = slice(1 - fitted.start, None, 2)
        mapping = best_order(predicted[fitted].numpy(), labels[fitted].numpy())
        answers, right = predicted[held_out].numpy(), labels[held_out].numpy()
        mapped = np.array([mapping.get(answer, answer) for answer in answers.tolist()])
        as_is, other = answers == right, mapped == right
        wins, losses = wins + int((other & ~as_is).sum()), losses + int((as_is & ~other).sum())
        before, after = before + int(as_is.sum()), after + int(other.sum())
    n = len(labels)
    tail = sum(math.comb(wins + losses, i) for i in range(losses + 1)) / 2 ** (wins + losses)
    return wins - losses >= GAIN * n and tail < ODDS, 100.0 * before / n, 100.0 * after / n


def best_order(predicted: np.ndarray, labels: np.ndarray) -> dict[int, int]:
    """The one-to-one map of classes that makes most answers right, of those answered; ties keep the order as it is."""
    from scipy.optimize import linear_sum_assignment

    classes, places = np.unique(np.concatenate([predicted, labels]), return_inverse=True)
    size = len(classes)
    counts = np.bincount(places[: len(predicted)] * size + places[len(predicted) :], minlength=size * size)
    table = counts.reshape(size, size).astype(float)
    answered = table.sum(axis=1) > 0
    rows, columns = linear_sum_assignment(table + 0.5 * np.eye(size), maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return {int(classes[r]): int(classes[c]) for r, c in pairs if answered[r] and table[r, c] > 0}
