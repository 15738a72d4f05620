"""Every method by name: the objective it stands for, with its usual weights.

A method is a function from what is known of the task to an `Objective`; its keyword arguments are its settings.
Where a task has no labels, terms on labels fall away.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache, partial
from typing import Annotated, Any, get_type_hints

import torch
from pydantic import Field, create_model
from torch import Tensor, nn

from tuition import losses
from tuition.errors import UserError
from tuition.training.objective import Batch, Objective, Over, Term
from tuition.training.settings import SettingError, Settings
from tuition.training.task import (
    Loss,
    Task,
    between_groups,
    compared,
    distilled,
    label_terms,
    layer_pairs,
    middle_layer,
    middle_layers,
    on_response,
)

# What a setting may be: each is declared once, in the signature of its method.
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(min_length=1)]
Pairs = Annotated[dict[Name, Name], Field(min_length=1)] | None


def ce(task: Task) -> Objective:
    """Cross-entropy on labels alone; no teacher."""
    if task.labels is None:
        raise UserError("the method ce learns from labels, and there are none; use another method or teacher_labels.")
    return Objective(label_terms(task, "ce", losses.cross_entropy))


def kd(task: Task, *, temperature: Positive = 4.0, kd: Weight = 1.0, ce: Weight = 1.0) -> Objective:
    """Soft targets and cross-entropy (Hinton et al., 2015)."""
    task.response("logits")
    return Objective(distilled(task, kd, ce, temperature))


def mse(task: Task, *, weight: Weight = 2.0, reads: Name = "logits", answer: Name = "logits") -> Objective:
    """Regression onto logits and labels; weight 2 gives the gradient scale of ckd."""
    term, modules = compared(task, "mse", losses.mse, weight, reads, answer, "rows")
    return Objective([term, *label_terms(task, "mse_label", losses.mse, weight)], modules=modules)


def ckd(
    task: Task,
    *,
    anchor: Weight = 0.1,
    teacher: Weight = 1.0,
    label: Weight = 1.0,
    recentre: bool = False,
    reads: Name = "logits",
    answer: Name = "logits",
) -> Objective:
    """Comparisons of every pair of a batch, exact and anchored (after Xu et al., 2025)."""
    loss = partial(losses.ckd, anchor=anchor)
    term, modules = compared(task, "ckd", loss, teacher, reads, answer, "sums")
    if recentre and modules:
        raise UserError("only what is compared directly can be recentred, not through a projector; use ckd.")
    if recentre and (reads, answer) != ("logits", "logits"):
        raise UserError("only logits can be recentred; leave reads and answer as they are.")
    terms = [term, *label_terms(task, "ckd_label", loss, label, "sums")]
    return Objective(terms, modules=modules, recentre=(teacher, label) if recentre else None)


def ckd_groups(
    task: Task,
    *,
    left: Count = 1,
    right: Count = 1,
    drawn: Annotated[int, Field(ge=0, le=100_000_000)] = 100_000,
    teacher: Weight = 1.0,
    label: Weight = 1.0,
    recentre: bool = False,
) -> Objective:
    """Comparisons of groups drawn once, sides forwarded apart, no anchor (Xu et al., 2025)."""
    terms = _group_terms(task, teacher, label)
    centre = (teacher, label) if recentre else None
    return Objective(terms, groups=(left, right), groups_drawn=drawn, recentre=centre)


def rkd(
    task: Task,
    *,
    distance: Weight = 25.0,
    angle: Weight = 50.0,
    kd: Weight = 1.0,
    ce: Weight = 1.0,
    temperature: Positive = 4.0,
) -> Objective:
    """Distances and angles between samples (Park et al., 2019)."""
    loss = partial(losses.rkd, distance_weight=distance, angle_weight=angle)
    return Objective([Term("rkd", on_response(task, loss, task.answer)), *distilled(task, kd, ce, temperature)])


def rkd_projected(
    task: Task,
    *,
    dimensions: Count = 50,
    weight: Weight = 1.0,
    kd: Weight = 1.0,
    ce: Weight = 1.0,
    temperature: Positive = 4.0,
) -> Objective:
    """Differences in a random projection, RKD_d of figure 4 (Xu et al., 2025)."""
    task.response("logits")
    projection = _Constant(losses.orthonormal_projection(task.num_classes, dimensions, seed=task.seed))

    def loss(student: Tensor, batch: Batch, **group: Any) -> Tensor:
        return losses.rkd_projected(student, batch.responses["logits"], projection.value, **group)

    terms = [Term("rkd_projected", loss, weight, over="sums"), *distilled(task, kd, ce, temperature)]
    return Objective(terms, modules=[projection])


def dist(
    task: Task,
    *,
    weight: Weight = 2.0,
    tau: Positive = 4.0,
    kd: Weight = 1.0,
    ce: Weight = 1.0,
    temperature: Positive = 4.0,
) -> Objective:
    """Correlations over classes and over samples (Huang et al., 2022)."""
    loss = partial(losses.dist, temperature=tau)
    return Objective([Term("dist", on_response(task, loss), weight), *distilled(task, kd, ce, temperature)])


def cc(
    task: Task, *, weight: Weight = 0.02, kd: Weight = 1.0, ce: Weight = 1.0, temperature: Positive = 4.0
) -> Objective:
    """Congruence of neighbours in the batch, RepDistiller's form, on logits (Peng et al., 2019)."""
    return Objective([Term("cc", on_response(task, losses.cc), weight), *distilled(task, kd, ce, temperature)])


def crd(
    task: Task,
    *,
    weight: Weight = 0.8,
    dim: Count = 128,
    negatives: Count = 16384,
    tau: Positive = 0.07,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    kd: Weight = 1.0,
    ce: Weight = 1.0,
    temperature: Positive = 4.0,
) -> Objective:
    """Contrast with a memory of embeddings of the logits (Tian et al., 2020)."""
    contrast = _contrast(task, dim=dim, negatives=negatives, temperature=tau, momentum=momentum)
    return Objective(
        [_contrast_term(task, contrast, weight), *distilled(task, kd, ce, temperature)], modules=[contrast]
    )


def mixup(task: Task, *, alpha: Positive = 1.0, teacher: Weight = 1.0, label: Weight = 1.0) -> Objective:
    """Mixed images; labels and cached teacher distributions mixed alike (Zhang et al., 2018)."""
    return _mixed(task, partial(losses.mixup, alpha=alpha), teacher, label)


def cutmix(task: Task, *, alpha: Positive = 1.0, teacher: Weight = 1.0, label: Weight = 1.0) -> Objective:
    """Pasted boxes; labels and cached teacher distributions mixed by area (Yun et al., 2019)."""
    return _mixed(task, partial(losses.cutmix, alpha=alpha), teacher, label)


def cutmix_pick(
    task: Task, *, alpha: Positive = 1.0, candidates: Count = 2, teacher: Weight = 1.0, label: Weight = 1.0
) -> Objective:
    """CutMix, keeping mixes of the highest entropy of the mixed cached answers (Wang et al., 2022)."""
    return _mixed(task, partial(losses.cutmix_pick, alpha=alpha, candidates=candidates), teacher, label)


def tf_fd(
    task: Task,
    *,
    within: Weight = 1.0,
    across: Weight = 1.0,
    layers: Annotated[list[Name], Field(min_length=1)] | None = None,
) -> Objective:
    """The student's own features teach one another, with cross-entropy; no teacher (after Li et al., 2022)."""
    paths = tuple(layers if layers is not None else middle_layers(task.model))

    def loss(maps: list[Tensor], batch: Batch) -> Tensor:
        return losses.tf_fd(maps, within=within, across=across)

    return Objective([Term("tf_fd", loss, 1.0, paths), *ce(task).terms])


def fitnets(
    task: Task,
    *,
    weight: Weight = 100.0,
    crd: Weight = 0.0,
    pairs: Pairs = None,
    kd: Weight = 1.0,
    ce: Weight = 1.0,
    temperature: Positive = 4.0,
) -> Objective:
    """Regression onto a middle layer's map (Romero et al., 2015)."""
    terms, modules = _hints(task, weight, layer_pairs(task, pairs, middle_layer), losses.hint, "rows")
    return _with_crd(task, terms, modules, crd, distilled(task, kd, ce, temperature))


def fitnets_ckd(
    task: Task,
    *,
    weight: Weight = 100.0,
    anchor: Weight = 0.1,
    sampled: bool = False,
    pairs: Pairs = None,
    teacher: Weight = 1.0,
    label: Weight = 1.0,
) -> Objective:
    """Comparisons of a middle layer's maps, with ckd (Xu et al., 2025); sampled: in pairs, as published."""
    found = layer_pairs(task, pairs, middle_layer)
    loss: tuple[Loss, Over] = (between_groups, "rows") if sampled else (losses.ckd, "sums")
    terms, modules = _hints(task, weight, found, *loss)
    return _with_ckd(task, terms, modules, anchor, sampled, teacher, label)


def vid(
    task: Task,
    *,
    weight: Weight = 1.0,
    crd: Weight = 0.0,
    pairs: Pairs = None,
    kd: Weight = 1.0,
    ce: Weight = 1.0,
    temperature: Positive = 4.0,
) -> Objective:
    """Likelihood of the middle layers' maps, with learned variances (Ahn et al., 2019)."""
    terms, modules = _variational(task, weight, layer_pairs(task, pairs, middle_layers), compare=False, sampled=False)
    return _with_crd(task, terms, modules, crd, distilled(task, kd, ce, temperature))


def vid_ckd(
    task: Task,
    *,
    weight: Weight = 1.0,
    anchor: Weight = 0.1,
    sampled: bool = False,
    pairs: Pairs = None,
    teacher: Weight = 1.0,
    label: Weight = 1.0,
) -> Objective:
    """Likelihood of the maps' differences, with ckd (Xu et al., 2025); sampled: in pairs, as published."""
    terms, modules = _variational(task, weight, layer_pairs(task, pairs, middle_layers), compare=True, sampled=sampled)
    return _with_ckd(task, terms, modules, anchor, sampled, teacher, label)


METHODS: dict[str, Callable[..., Objective]] = {
    "ce": ce,
    "kd": kd,
    "mse": mse,
    "ckd": ckd,
    "ckd_exact": partial(ckd, anchor=0.0),
    "ckd_exact_recentred": partial(ckd, anchor=0.0, recentre=True),
    "ckd_published": ckd_groups,
    "ckd_published_recentred": partial(ckd_groups, recentre=True),
    "ckd_2_1": partial(ckd_groups, left=2),
    "ckd_2_2": partial(ckd_groups, left=2, right=2),
    "rkd": rkd,
    "rkd_10": partial(rkd_projected, dimensions=10),
    "rkd_50": partial(rkd_projected, dimensions=50),
    "rkd_100": partial(rkd_projected, dimensions=100),
    "rkd_10_alone": partial(rkd_projected, dimensions=10, kd=0.0, ce=0.0),
    "rkd_50_alone": partial(rkd_projected, dimensions=50, kd=0.0, ce=0.0),
    "rkd_100_alone": partial(rkd_projected, dimensions=100, kd=0.0, ce=0.0),
    "dist": dist,
    "cc": cc,
    "crd": crd,
    "mixup": mixup,
    "cutmix": cutmix,
    "cutmix_pick": cutmix_pick,
    "tf_fd": tf_fd,
    "fitnets": fitnets,
    "fitnets_crd": partial(fitnets, crd=0.8),
    "fitnets_ckd": fitnets_ckd,
    "vid": vid,
    "vid_crd": partial(vid, crd=0.8),
    "vid_ckd": vid_ckd,
}


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a method and their defaults."""
    parameters = inspect.signature(_find(name)).parameters
    return {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}


def summary(name: str) -> str:
    """The first line of a method's documentation."""
    return (inspect.getdoc(_function(name)) or "").splitlines()[0]


def markdown() -> str:
    """The table of all methods, for the README."""
    rows = ["| method | what it is | settings |", "|---|---|---|"]
    for name in METHODS:
        settings = ", ".join(f"{key} {value}" for key, value in settings_of(name).items() if value is not None)
        rows.append(f"| `{name}` | {summary(name)} | {settings} |")
    return "\n".join(rows)


def teacher_layers(name: str, model: nn.Module | str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Module paths of the teacher whose maps a method compares; none for a black-box method."""
    if "pairs" not in settings_of(name):
        return []
    pairs = (options or {}).get("pairs")
    if pairs is not None:
        return sorted(set(pairs.values()))
    return middle_layer(model) if _function(name) in (fitnets, fitnets_ckd) else middle_layers(model)


def create(name: str, task: Task, options: Mapping[str, Any] | None = None) -> Objective:
    """The objective of the method `name`.

    Raises:
        UserError: an unknown method or setting (the nearest is named), or a task it cannot be used for.
    """
    try:
        return _find(name)(task, **checked(name, options or {}))
    except UserError:
        raise
    except ValueError as error:  # of the losses
        raise UserError(f"the method {name} cannot be used like this: {str(error).rstrip('.')}.") from error


def checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method, with numbers that were given as text made numbers.

    Raises:
        UserError: an unknown method or setting, or a value of another type or out of range.
    """
    known = settings_of(name)
    for option in options:
        if option not in known:
            near = get_close_matches(str(option), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"its settings are {', '.join(known) or 'none'}."
            raise SettingError(f"the method {name} has no setting {option!r}; {hint}")
    found = _Options.of_method(name, options)
    # 25 stays 25: equal to 25.0, but not in the digest that names a run of a study.
    return {key: given if type(given) is int and given == found[key] else found[key] for key, given in options.items()}


class _Options(Settings):
    """The settings of one method, in a subclass that is made from its signature."""

    @classmethod
    def of_method(cls, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        model = _options_model(name)
        return model._of(options, "options.").model_dump()


@cache
def _options_model(name: str) -> type[_Options]:
    hints = get_type_hints(_function(name), include_extras=True)
    fields: Any = {key: (hints.get(key, Any), default) for key, default in settings_of(name).items()}
    return create_model(f"Options of {name}", __base__=_Options, **fields)


def _find(name: str) -> Callable[..., Objective]:
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"methods are {', '.join(METHODS)}."
        raise SettingError(f"there is no method {name!r}; {hint}")
    return METHODS[name]


def _function(name: str) -> Callable[..., Objective]:
    method = _find(name)
    return method.func if isinstance(method, partial) else method


# -- parts -------------------------------------------------------------------------------------------------------------


class _Constant(nn.Module):
    """A tensor that follows its objective to the device, and is not saved, for the seed gives it."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)


def _group_terms(task: Task, teacher: float, label: float) -> list[Term]:
    task.response("logits")

    def on_teacher(student: Tensor, batch: Batch) -> Tensor:
        return between_groups(student, batch.responses["logits"], batch)

    def on_labels(student: Tensor, batch: Batch) -> Tensor:
        assert batch.targets is not None
        return between_groups(student, batch.targets, batch)

    terms = [Term("ckd", on_teacher, teacher, over="rows")]
    return terms if task.labels is None else [*terms, Term("ckd_label", on_labels, label, over="rows")]


def _mixed(task: Task, mix: Callable[..., tuple[Tensor, ...]], teacher: float, label: float) -> Objective:
    """Cross-entropy at temperature 1 against labels and teacher on inputs mixed as they are."""
    if not task.example.is_floating_point():
        raise UserError("this method mixes images or vectors, and the inputs are text; use another, as ckd.")
    task.response("logits")

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        inputs = batch.inputs.float() / 255 if batch.inputs.dtype == torch.uint8 else batch.inputs
        answers = batch.responses["logits"].softmax(dim=1)
        # The teacher's distribution is the last target, by which CutMixPick picks.
        targets = [answers] if batch.targets is None else [batch.targets, answers]
        inputs, *targets = mix(inputs, *targets, generator=generator)
        return replace(
            batch,
            inputs=inputs,
            responses={"distribution": targets[-1]},
            targets=None if batch.targets is None else targets[0],
        )

    def on_teacher(student: Tensor, batch: Batch) -> Tensor:
        return losses.cross_entropy(student, batch.responses["distribution"])

    terms = [Term("ce_teacher", on_teacher, teacher, over="rows")]
    return Objective(terms + label_terms(task, "ce", losses.cross_entropy, label), mix=apply)


def _contrast(task: Task, **constants: Any) -> losses.CRD:
    width, answer = task.shape("logits")[1], task.response(task.answer)
    return losses.CRD(width, answer.shape[1], len(answer), labels=task.labels, seed=task.seed, **constants)


def _contrast_term(task: Task, contrast: losses.CRD, weight: float) -> Term:
    def loss(student: Tensor, batch: Batch) -> Tensor:
        return contrast(student, batch.responses[task.answer], batch.rows)

    return Term("crd", loss, weight)


def _hints(
    task: Task, weight: float, pairs: dict[str, str], loss: Loss, over: Over
) -> tuple[list[Term], list[nn.Module]]:
    """A regressor and a term for each pair of layers."""
    terms: list[Term] = []
    modules: list[nn.Module] = []
    for path, answer in pairs.items():
        wanted = task.response(answer)
        # Maps that are read behind a ReLU have no negative values, and then the regressor ends in one too.
        relu = bool((wanted >= 0).all())
        regressor = losses.Regressor(task.shape(path)[1:], wanted.shape[1:], relu=relu, seed=task.seed)

        def term(
            student: Tensor, batch: Batch, regressor: nn.Module = regressor, answer: str = answer, **group: Any
        ) -> Tensor:
            maps = regressor(student), batch.responses[answer]
            return loss(*maps, batch) if loss is between_groups else loss(*maps, **group)

        terms.append(Term(f"hint_{path}", term, weight, path, over))
        modules.append(regressor)
    return terms, modules


def _variational(
    task: Task, weight: float, pairs: dict[str, str], *, compare: bool, sampled: bool
) -> tuple[list[Term], list[nn.Module]]:
    """A VID module and a term for each pair of layers."""
    terms: list[Term] = []
    modules: list[nn.Module] = []
    for path, answer in pairs.items():
        channels = task.shape(path)[1], task.response(answer).shape[1]
        module = losses.VID(*channels, compare=compare, seed=task.seed)

        def term(student: Tensor, batch: Batch, module: nn.Module = module, answer: str = answer) -> Tensor:
            return module(student, batch.responses[answer], *(batch.group_indices() if sampled else ()))

        terms.append(Term(f"vid_{path}", term, weight, path, "batch" if compare and not sampled else "rows"))
        modules.append(module)
    return terms, modules


def _with_crd(task: Task, terms: list[Term], modules: list[nn.Module], weight: float, others: list[Term]) -> Objective:
    if weight:
        contrast = _contrast(task)
        terms, modules = [*terms, _contrast_term(task, contrast, weight)], [*modules, contrast]
    return Objective([*terms, *others], modules=modules)


def _with_ckd(
    task: Task,
    terms: list[Term],
    modules: list[nn.Module],
    anchor: float,
    sampled: bool,
    teacher: float,
    label: float,
) -> Objective:
    if sampled:
        found = _group_terms(task, teacher, label)
        return Objective([*terms, *found], modules=modules, groups=(1, 1), groups_drawn=100_000)
    return Objective([*terms, *ckd(task, anchor=anchor, teacher=teacher, label=label).terms], modules=modules)
