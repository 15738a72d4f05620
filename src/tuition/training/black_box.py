"""Methods on the teacher's answers alone: each is a function from a `Task` to an `Objective`.

Where a task has no labels, terms on labels fall away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from tuition import losses
from tuition.errors import UserError
from tuition.training.mixing import Mix, floating, linear_mix
from tuition.training.objective import Batch, Objective, Term
from tuition.training.options import (
    Answer,
    CEWeight,
    Count,
    KDWeight,
    LabelWeight,
    Positive,
    Reads,
    Recentre,
    TeacherWeight,
    Temperature,
    Weight,
)
from tuition.training.task import (
    Task,
    between_groups,
    compared,
    cross_entropy_terms,
    distilled,
    label_terms,
    on_response,
)

GroupsDrawn = Annotated[
    int, Field(ge=0, le=100_000_000), "number of groups that are drawn once and reused; 0 draws new ones every epoch"
]
Drawn = Annotated[bool, "draw the negatives, as the authors do, and do not weight all by how often that takes them"]
Even = Annotated[bool, "cut the sides of a box down to even numbers of pixels, as the authors do, and do not round"]
Alpha = Annotated[Positive, "both parameters of the beta distribution of the mixing shares"]


def ce(task: Task) -> Objective:
    """Cross-entropy on labels alone; without them, on a teacher's hard labels."""
    if task.labels is None and task.target == "votes":
        return Objective([Term("ce_teacher", on_response(task, losses.cross_entropy, "votes"))])
    if task.labels is None:
        raise UserError("the method ce learns from labels, and there are none; use another method or teacher_labels.")
    return Objective(cross_entropy_terms(task))


def kd(
    task: Task, *, temperature: Temperature = 4.0, kd_weight: KDWeight = 1.0, ce_weight: CEWeight = 1.0
) -> Objective:
    """Soft targets and cross-entropy (Hinton et al., 2015)."""
    task.response("logits")
    return Objective(distilled(task, kd_weight, ce_weight, temperature))


def dkd(
    task: Task,
    *,
    alpha: Annotated[Weight, "weight of the label's class against all others"] = 1.0,
    beta: Annotated[Weight, "weight of the distribution over the other classes"] = 8.0,
    temperature: Annotated[Positive, "temperature of both distributions"] = 4.0,
    warm_up: Annotated[int, Field(ge=0), "epochs in which the weight of DKD rises linearly to its value"] = 20,
    ce_weight: CEWeight = 1.0,
) -> Objective:
    """KD in two parts: the label's class, and the distribution over the others (Zhao et al., 2022)."""
    task.response("logits")
    if task.labels is None:
        raise UserError("the method dkd needs labels, and there are none; use kd, or teacher_labels.")

    def loss(student: Tensor, batch: Batch) -> Tensor:
        value = losses.dkd(
            student, batch.responses["logits"], batch.labels, alpha=alpha, beta=beta, temperature=temperature
        )
        return value * min((batch.epoch + 1) / max(warm_up, 1), 1.0)

    return Objective([Term("dkd", loss), *cross_entropy_terms(task, ce_weight)])


def standardised_kd(
    task: Task,
    *,
    temperature: Annotated[Positive, "temperature of the standardised logits"] = 2.0,
    kd_weight: KDWeight = 9.0,
    ce_weight: CEWeight = 0.1,
) -> Objective:
    """KD of logits that are standardised row by row, so that their range is free (Sun et al., 2024)."""
    loss = on_response(task, partial(losses.standardised_kd, temperature=temperature))
    return Objective([Term("standardised_kd", loss, kd_weight), *cross_entropy_terms(task, ce_weight)])


def mse(
    task: Task,
    *,
    weight: Annotated[Weight, "weight of both terms, on the teacher's answers and on labels"] = 2.0,
    mix: Mix = 0.0,
    reads: Reads = "logits",
    answer: Answer = "logits",
) -> Objective:
    """Regression onto logits and labels; weight 2 gives the gradient scale of ckd."""
    term, modules = compared(task, "mse", losses.mse, weight, reads, answer)
    terms = [term, *label_terms(task, "mse_label", losses.mse, weight)]
    return Objective(terms, modules=modules, mix=linear_mix(task, mix, answer))


def ckd(
    task: Task,
    *,
    anchor: Annotated[Weight, "weight of the error of the batch's mean, to which comparisons are blind"] = 0.1,
    teacher_weight: TeacherWeight = 1.0,
    label_weight: LabelWeight = 1.0,
    mix: Mix = 0.0,
    recentre: Recentre = False,
    reads: Reads = "logits",
    answer: Answer = "logits",
) -> Objective:
    """Comparisons of every pair of a batch, exact and anchored (after Xu et al., 2025)."""
    loss = partial(losses.ckd, anchor=anchor)
    term, modules = compared(task, "ckd", loss, teacher_weight, reads, answer)
    if recentre and modules:
        raise UserError("only what is compared directly can be recentred, not through a projector; use ckd.")
    if recentre and (reads, answer) != ("logits", "logits"):
        raise UserError("only logits can be recentred; leave reads and answer as they are.")
    terms = [term, *label_terms(task, "ckd_label", loss, label_weight)]
    centre = (teacher_weight, label_weight) if recentre else None
    return Objective(terms, modules=modules, mix=linear_mix(task, mix, answer), recentre=centre)


def ckd_published(
    task: Task,
    *,
    left: Annotated[Count, "inputs on one side of a comparison"] = 1,
    right: Annotated[Count, "inputs on its other side"] = 1,
    groups_drawn: GroupsDrawn = 100_000,
    distinct: Annotated[bool, "draw no group twice, and take none twice in an epoch, as the authors do"] = False,
    teacher_weight: TeacherWeight = 1.0,
    label_weight: LabelWeight = 1.0,
    recentre: Recentre = False,
) -> Objective:
    """Comparisons of groups drawn once, sides forwarded apart, no anchor (Xu et al., 2025)."""
    if distinct and not groups_drawn:
        raise UserError("distinct groups are drawn once; set options.groups_drawn, or leave distinct out.")
    return Objective(
        group_terms(task, teacher_weight, label_weight),
        groups=(left, right),
        groups_drawn=groups_drawn,
        distinct=distinct,
        recentre=(teacher_weight, label_weight) if recentre else None,
    )


def group_terms(task: Task, teacher_weight: float, label_weight: float) -> list[Term]:
    """Comparisons of the groups of a batch by the teacher's logits and by labels."""
    target = "votes" if task.target == "votes" else "logits"
    task.response(target)

    def on_teacher(student: Tensor, batch: Batch) -> Tensor:
        return between_groups(student, batch.responses[target], batch)

    def on_labels(student: Tensor, batch: Batch) -> Tensor:
        assert batch.targets is not None
        return between_groups(student, batch.targets, batch)

    terms = [Term("ckd", on_teacher, teacher_weight)]
    return terms if task.labels is None else [*terms, Term("ckd_label", on_labels, label_weight)]


def rkd(
    task: Task,
    *,
    distance_weight: Annotated[Weight, "weight of the distances between pairs"] = 25.0,
    angle_weight: Annotated[Weight, "weight of the angles of triples"] = 50.0,
    per_class: Annotated[
        int, Field(ge=0), "inputs of each class in a batch, as the authors' 5; 0: whatever a random batch has"
    ] = 0,
    kd_weight: KDWeight = 1.0,
    ce_weight: CEWeight = 1.0,
    temperature: Temperature = 4.0,
) -> Objective:
    """Distances and angles between samples (Park et al., 2019)."""
    loss = partial(losses.rkd, distance_weight=distance_weight, angle_weight=angle_weight)
    term = Term("rkd", on_response(task, loss, task.answer))
    return Objective([term, *distilled(task, kd_weight, ce_weight, temperature)], per_class=per_class)


def rkd_projected(
    task: Task,
    *,
    dimensions: Annotated[Count, "dimensions of the random projection"] = 50,
    weight: Annotated[Weight, "weight of the projected differences"] = 1.0,
    kd_weight: KDWeight = 1.0,
    ce_weight: CEWeight = 1.0,
    temperature: Temperature = 4.0,
) -> Objective:
    """Differences in a random projection, RKD_d of figure 4 (Xu et al., 2025)."""
    task.response("logits")
    projection = _Constant(losses.orthonormal_projection(task.num_classes, dimensions, seed=task.seed))

    def loss(student: Tensor, batch: Batch) -> Tensor:
        return losses.rkd_projected(student, batch.responses["logits"], projection.value)

    terms = [Term("rkd_projected", loss, weight), *distilled(task, kd_weight, ce_weight, temperature)]
    return Objective(terms, modules=[projection])


class _Constant(nn.Module):
    """A tensor that follows its objective to the device. It is not saved, because the seed gives it."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)


def dist(
    task: Task,
    *,
    weight: Annotated[Weight, "weight of the correlations"] = 2.0,
    tau: Annotated[Positive, "temperature of the distributions that are correlated"] = 4.0,
    kd_weight: KDWeight = 1.0,
    ce_weight: CEWeight = 1.0,
    temperature: Temperature = 4.0,
) -> Objective:
    """Correlations over classes and over samples (Huang et al., 2022)."""
    loss = partial(losses.dist, temperature=tau)
    term = Term("dist", on_response(task, loss), weight)
    return Objective([term, *distilled(task, kd_weight, ce_weight, temperature)])


def cc(
    task: Task,
    *,
    weight: Annotated[Weight, "weight of the congruence"] = 0.02,
    kd_weight: KDWeight = 1.0,
    ce_weight: CEWeight = 1.0,
    temperature: Temperature = 4.0,
) -> Objective:
    """Congruence of neighbours in the batch, RepDistiller's form, on logits (Peng et al., 2019)."""
    term = Term("cc", on_response(task, losses.cc), weight)
    return Objective([term, *distilled(task, kd_weight, ce_weight, temperature)])


def crd(
    task: Task,
    *,
    weight: Annotated[Weight, "weight of the contrast"] = 0.8,
    dim: Annotated[Count, "width of the embeddings that are contrasted"] = 128,
    negatives: Annotated[Count, "expected number of other inputs that each one is contrasted with"] = 16384,
    tau: Annotated[Positive, "temperature of the contrast"] = 0.07,
    momentum: Annotated[float, Field(ge=0, lt=1), "share of an old embedding that the memory keeps"] = 0.5,
    drawn: Drawn = False,
    kd_weight: KDWeight = 1.0,
    ce_weight: CEWeight = 1.0,
    temperature: Temperature = 4.0,
) -> Objective:
    """Contrast with a memory of embeddings of the logits (Tian et al., 2020)."""
    terms = distilled(task, kd_weight, ce_weight, temperature)
    constants: dict[str, Any] = {"dim": dim, "negatives": negatives, "temperature": tau, "momentum": momentum}
    return contrasted(task, weight, terms, drawn=drawn, **constants)


def contrasted(
    task: Task, weight: float, terms: list[Term], modules: Sequence[nn.Module] = (), *, drawn: bool, **constants: Any
) -> Objective:
    """The contrast with a memory, beside other terms and their modules; its negatives are drawn or expected."""
    width, answer = task.shape("logits")[1], task.response(task.answer)
    contrast = losses.CRD(width, answer.shape[1], len(answer), labels=task.labels, seed=task.seed, **constants)

    def draw(batch: Batch, generator: torch.Generator) -> Batch:
        return replace(batch, responses={**batch.responses, "contrast": contrast.draw(batch.rows, generator)})

    def loss(student: Tensor, batch: Batch) -> Tensor:
        return contrast(student, batch.responses[task.answer], batch.rows, batch.responses.get("contrast"))

    return Objective([Term("crd", loss, weight), *terms], modules=[*modules, contrast], mix=draw if drawn else None)


def mixup(
    task: Task,
    *,
    alpha: Alpha = 1.0,
    pairs_drawn: Annotated[
        int,
        Field(ge=0, le=100_000_000),
        "pairs to mix that are drawn once, as the authors do; 0 pairs those of a batch",
    ] = 0,
    teacher_weight: TeacherWeight = 1.0,
    label_weight: LabelWeight = 1.0,
) -> Objective:
    """Mixed images; labels and cached teacher distributions mixed alike (Zhang et al., 2018)."""
    return _mixed(task, partial(losses.mixup, alpha=alpha), teacher_weight, label_weight, pairs_drawn)


def cutmix(
    task: Task,
    *,
    alpha: Alpha = 1.0,
    even: Even = False,
    teacher_weight: TeacherWeight = 1.0,
    label_weight: LabelWeight = 1.0,
) -> Objective:
    """Pasted boxes; labels and cached teacher distributions mixed by area (Yun et al., 2019)."""
    return _mixed(task, partial(losses.cutmix, alpha=alpha, even=even), teacher_weight, label_weight)


def cutmix_pick(
    task: Task,
    *,
    alpha: Alpha = 1.0,
    candidates: Annotated[Count, "mixes that each kept one is picked from"] = 2,
    even: Even = False,
    teacher_weight: TeacherWeight = 1.0,
    label_weight: LabelWeight = 1.0,
) -> Objective:
    """CutMix, keeping mixes of the highest entropy of the mixed cached answers (Wang et al., 2022)."""
    mix = partial(losses.cutmix_pick, alpha=alpha, candidates=candidates, even=even)
    return _mixed(task, mix, teacher_weight, label_weight)


def _mixed(
    task: Task,
    mix: Callable[..., tuple[Tensor, ...]],
    teacher_weight: float,
    label_weight: float,
    pairs_drawn: int = 0,
) -> Objective:
    """Cross-entropy at temperature 1 against labels and teacher on inputs mixed as they are, or in pairs drawn once."""
    if not task.example.is_floating_point():
        raise UserError("this method mixes images or vectors, and the inputs are text; use another, such as ckd.")
    hard = task.target == "votes"
    task.response("votes" if hard else "logits")

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        inputs = floating(batch.inputs)
        answers = batch.responses["votes"] if hard else batch.responses["logits"].softmax(dim=1)
        # The teacher's distribution is the last target, by which CutMixPick picks.
        targets = [answers] if batch.targets is None else [batch.targets, answers]
        if batch.groups is None:
            inputs, *targets = mix(inputs, *targets, generator=generator)
        else:  # the other side of each pair
            m = len(batch.rows) // 2
            partners = torch.arange(2 * m, device=inputs.device).roll(m)
            inputs, *targets = (x[:m] for x in mix(inputs, *targets, partners=partners, generator=generator))
        return replace(
            batch,
            inputs=inputs,
            rows=batch.rows[: len(inputs)],
            groups=None,
            responses={"distribution": targets[-1]},
            targets=None if batch.targets is None else targets[0],
        )

    def on_teacher(student: Tensor, batch: Batch) -> Tensor:
        return losses.cross_entropy(student, batch.responses["distribution"])

    terms = [Term("ce_teacher", on_teacher, teacher_weight)]
    terms += cross_entropy_terms(task, label_weight)
    paired = pairs_drawn > 0
    groups = (1, 1) if paired else None
    return Objective(terms, mix=apply, groups=groups, groups_drawn=pairs_drawn, distinct=paired)
