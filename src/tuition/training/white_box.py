"""Methods on feature maps: those of the teacher, or the student's own. Each maps a `Task` to an `Objective`."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tuition import losses
from tuition.errors import UserError
from tuition.training.black_box import Drawn, ce, ckd, contrasted, group_terms
from tuition.training.objective import Batch, Objective, Term
from tuition.training.options import CEWeight, KDWeight, LabelWeight, Name, Pairs, TeacherWeight, Temperature, Weight
from tuition.training.task import Loss, Task, differences, distilled, layer_pairs, middle_layer, middle_layers

ReLU = Annotated[
    Literal["auto", "always"], "at the end of the regressor: where the map to reach has no negative values, or always"
]
CRDWeight = Annotated[Weight, "weight of CRD on the logits, beside the maps; 0 leaves it out"]
Anchor = Annotated[Weight, "anchor of ckd on the logits"]
Sampled = Annotated[
    bool, "as published: sampled pairs, and the regressor reads the difference of the student's maps; not every pair"
]


def tf_fd(
    task: Task,
    *,
    within_weight: Annotated[Weight, "weight of the channels of a layer, which teach one another"] = 0.0008,
    across_weight: Annotated[Weight, "weight of the deeper layers, which teach the shallower"] = 0.0005,
    layers: Annotated[
        Annotated[list[Name], Field(min_length=1)] | None, "module paths of the student; by default its middle layers"
    ] = None,
) -> Objective:
    """The student's own features teach one another, with cross-entropy; no teacher (Li, 2022)."""
    paths = tuple(layers if layers is not None else middle_layers(task.model))

    def loss(maps: list[Tensor], batch: Batch) -> Tensor:
        return losses.tf_fd(maps, within=within_weight, across=across_weight)

    return Objective([Term("tf_fd", loss, 1.0, paths), *ce(task).terms])


def fitnets(
    task: Task,
    *,
    weight: Annotated[Weight, "weight of the regression onto the map"] = 100.0,
    crd_weight: CRDWeight = 0.0,
    crd_drawn: Drawn = False,
    relu: ReLU = "auto",
    pairs: Pairs = None,
    kd_weight: KDWeight = 1.0,
    ce_weight: CEWeight = 1.0,
    temperature: Temperature = 4.0,
) -> Objective:
    """Regression onto a middle layer's map (Romero et al., 2015)."""
    terms, modules = _hints(task, weight, layer_pairs(task, pairs, middle_layer), losses.hint, relu)
    return _with_crd(task, terms, modules, crd_weight, crd_drawn, distilled(task, kd_weight, ce_weight, temperature))


def fitnets_ckd(
    task: Task,
    *,
    weight: Annotated[Weight, "weight of the comparisons of the maps"] = 100.0,
    anchor: Anchor = 0.1,
    sampled: Sampled = False,
    relu: ReLU = "auto",
    pairs: Pairs = None,
    teacher_weight: TeacherWeight = 1.0,
    label_weight: LabelWeight = 1.0,
) -> Objective:
    """Comparisons of a middle layer's maps, with ckd (Xu et al., 2025); sampled: in pairs, as published."""
    loss = losses.hint if sampled else losses.ckd
    terms, modules = _hints(task, weight, layer_pairs(task, pairs, middle_layer), loss, relu, sampled=sampled)
    return _with_ckd(task, terms, modules, anchor, sampled, teacher_weight, label_weight)


def vid(
    task: Task,
    *,
    weight: Annotated[Weight, "weight of the likelihood of the maps"] = 1.0,
    crd_weight: CRDWeight = 0.0,
    crd_drawn: Drawn = False,
    pairs: Pairs = None,
    kd_weight: KDWeight = 1.0,
    ce_weight: CEWeight = 1.0,
    temperature: Temperature = 4.0,
) -> Objective:
    """Likelihood of the middle layers' maps, with learned variances (Ahn et al., 2019)."""
    terms, modules = _variational(task, weight, layer_pairs(task, pairs, middle_layers), compare=False)
    return _with_crd(task, terms, modules, crd_weight, crd_drawn, distilled(task, kd_weight, ce_weight, temperature))


def vid_ckd(
    task: Task,
    *,
    weight: Annotated[Weight, "weight of the likelihood of the maps' differences"] = 1.0,
    anchor: Anchor = 0.1,
    sampled: Sampled = False,
    pairs: Pairs = None,
    teacher_weight: TeacherWeight = 1.0,
    label_weight: LabelWeight = 1.0,
) -> Objective:
    """Likelihood of the maps' differences, with ckd (Xu et al., 2025); sampled: in pairs, as published."""
    layers = layer_pairs(task, pairs, middle_layers)
    terms, modules = _variational(task, weight, layers, compare=not sampled, sampled=sampled)
    return _with_ckd(task, terms, modules, anchor, sampled, teacher_weight, label_weight)


def _as_map(x: Tensor) -> Tensor:
    """Tokens (n, t, c) as maps (n, c, t, 1), vectors (n, c) as maps (n, c, 1, 1); maps (n, c, h, w) as they are."""
    if x.ndim == 3:
        return x.transpose(1, 2)[..., None]
    return x[..., None, None] if x.ndim == 2 else x


def _shape(task: Task, path: str) -> tuple[int, ...]:
    """Shape (2, c, h, w) of a layer of the student, as a map."""
    shape = task.shape(path)
    if len(shape) == 3 and not task.example.is_floating_point():
        raise UserError(
            f"{path} holds a vector for each token, and texts differ in their number; name a layer with one vector a "
            "text, such as classifier:input."
        )
    return tuple(_as_map(torch.empty(shape, device="meta")).shape)


def _maps(student: Tensor, answer: Tensor, batch: Batch, sampled: bool) -> tuple[Tensor, Tensor]:
    """What a layer's term reads of student and teacher: maps, or their differences in the sampled pairs."""
    maps = _as_map(student), _as_map(answer)
    return (differences(maps[0], batch), differences(maps[1], batch)) if sampled else maps


def _hints(
    task: Task, weight: float, pairs: dict[str, str], loss: Loss, relu: str, *, sampled: bool = False
) -> tuple[list[Term], list[nn.Module]]:
    """A regressor and a term for each pair of layers."""
    terms: list[Term] = []
    modules: list[nn.Module] = []
    for path, answer in pairs.items():
        target = task.response(answer)
        # Maps that are read behind a ReLU have no negative values, and then the regressor ends in one too.
        ends = relu == "always" or (not sampled and bool((target >= 0).all()))
        regressor = losses.Regressor(_shape(task, path), _as_map(target[:2]).shape, relu=ends, seed=task.seed)

        def term(student: Tensor, batch: Batch, regressor: nn.Module = regressor, answer: str = answer) -> Tensor:
            maps, targets = _maps(student, batch.responses[answer], batch, sampled)
            return loss(regressor(maps), targets)

        terms.append(Term(f"hint_{path}", term, weight, path))
        modules.append(regressor)
    return terms, modules


def _variational(
    task: Task, weight: float, pairs: dict[str, str], *, compare: bool, sampled: bool = False
) -> tuple[list[Term], list[nn.Module]]:
    """A VID module and a term for each pair of layers."""
    terms: list[Term] = []
    modules: list[nn.Module] = []
    for path, answer in pairs.items():
        channels = _shape(task, path)[1], _as_map(task.response(answer)[:2]).shape[1]
        module = losses.VID(*channels, compare=compare, seed=task.seed)

        def term(student: Tensor, batch: Batch, module: nn.Module = module, answer: str = answer) -> Tensor:
            return module(*_maps(student, batch.responses[answer], batch, sampled))

        terms.append(Term(f"vid_{path}", term, weight, path))
        modules.append(module)
    return terms, modules


def _with_crd(
    task: Task, terms: list[Term], modules: list[nn.Module], weight: float, drawn: bool, others: list[Term]
) -> Objective:
    if weight:
        return contrasted(task, weight, [*terms, *others], modules, drawn=drawn)
    return Objective([*terms, *others], modules=modules)


def _with_ckd(
    task: Task,
    terms: list[Term],
    modules: list[nn.Module],
    anchor: float,
    sampled: bool,
    teacher_weight: float,
    label_weight: float,
) -> Objective:
    if sampled:
        terms = [*terms, *group_terms(task, teacher_weight, label_weight)]
        return Objective(terms, modules=modules, groups=(1, 1), groups_drawn=100_000, distinct=True)
    others = ckd(task, anchor=anchor, teacher_weight=teacher_weight, label_weight=label_weight).terms
    return Objective([*terms, *others], modules=modules)
