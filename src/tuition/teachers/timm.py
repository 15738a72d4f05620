"""Models of timm as teachers, with the preprocessing they were trained with."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tuition import huggingface
from tuition.errors import UserError, first_line
from tuition.teachers.fingerprint import short
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.pytorch import Scaled, TorchTeacher


@dataclass(frozen=True)
class Resized:
    """Images (b, c, h, w) to `size` as timm evaluates: the shorter side to size / crop_pct, then the centre.

    In "squash" mode both sides are brought to size / crop_pct. Computed on tensors with antialiasing, which Pillow's
    result differs from by its rounding to bytes.
    """

    size: tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str

    def __call__(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        sides = [math.floor(side / self.crop_pct) for side in self.size]
        if self.crop_mode == "center":
            scale = max(sides[0] / height, sides[1] / width)
            sides = [max(side, int(scale * of)) for side, of in zip(sides, (height, width), strict=True)]
        if sides != [height, width]:
            images = nn.functional.interpolate(images, sides, mode=self.interpolation, antialias=True).clamp(0, 1)
        top, left = (round((side - of) / 2) for side, of in zip(sides, self.size, strict=True))
        return images[..., top : top + self.size[0], left : left + self.size[1]]


def from_timm(
    architecture: str,
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    layers: Sequence[str] = (),
    name: str | None = None,
    class_names: Sequence[str] | None = None,
) -> TorchTeacher:
    """A teacher from a model of timm (`pip install 'tuition[timm]'`), on the CPU until it is moved.

    uint8 images (b, 3, h, w) of any size (or grey, as three equal channels) are resized, cropped and normalised as
    timm's configuration of the model says; it answers {"logits": float32 (b, k)}. The fingerprint holds the digest of
    the weights and the preprocessing.

    Args:
        architecture: a name of timm, with the tag of its weights, such as "resnet18.a1_in1k".
        pretrained: take timm's published weights; else random ones, the same each time.
        weights: a file of weights instead: safetensors, or a state dict that `torch.save` wrote.
        num_classes: k of these weights, where it is not the architecture's default.
        layers: as in `from_torch`.
        name: what people call it; by default the architecture and eight digits of the fingerprint.
        class_names: one name a class, in the order of the logits.

    Raises:
        UserError: timm is missing or does not import, has no such model, or the weights are missing or do not fit.
    """
    timm = huggingface.timm("a teacher of timm")
    if not re.fullmatch(r"[\w.-]+", architecture) or not timm.is_model(architecture):  # nor hf-hub:, local-dir:
        near = difflib.get_close_matches(architecture, timm.list_models())
        raise UserError(f"timm has no model {architecture!r}; try {', '.join(near) or 'one of timm.list_models()'}.")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            classes = {} if num_classes is None else {"num_classes": num_classes}
            model = timm.create_model(architecture, pretrained=pretrained and weights is None, **classes)
        if weights is not None:
            model.load_state_dict(_state(Path(weights)))
    except Exception as error:  # no network, no such tag, a file without weights, other shapes, ...
        raise UserError(
            f"timm cannot make {architecture!r} ({first_line(error)}); check the name, the weights and the network."
        ) from error
    config = timm.data.resolve_model_data_config(model)
    if config["crop_mode"] not in ("center", "squash") or config["interpolation"] not in ("bilinear", "bicubic"):
        raise UserError(
            f"{architecture} needs {config['interpolation']} resizing in mode {config['crop_mode']}, which is not "
            "supported; prepare its inputs yourself and use from_torch."
        )
    resized = Resized(config["input_size"][1:], config["crop_pct"], config["crop_mode"], config["interpolation"])
    names = checked_names(class_names, getattr(model, "num_classes", None))
    prepare = Scaled(config["mean"], config["std"], resized)
    teacher = TorchTeacher(model, name, prepare, class_names=names, reads="floats").with_layers(layers)
    return teacher if name else replace(teacher, given_name=f"{architecture}-{short(teacher.fingerprint)}")


def _state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
