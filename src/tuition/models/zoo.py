"""Models by name: the families of the distillation literature, timm's, and any factory of the user's own."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuition import factories, huggingface
from tuition.errors import Notice, UserError
from tuition.models import transformers
from tuition.models.cnn import CNN, MLP
from tuition.models.named import Made, NamedModel, Start
from tuition.models.preprocess import Preprocess
from tuition.models.readers import TextReader, Tokenizer
from tuition.models.resnet import ResNet
from tuition.models.text import Bag, Transformer
from tuition.models.vgg import VGG
from tuition.models.wrn import WideResNet

_NARROW, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
_VGGS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_RESNETS = {f"resnet{depth}": (depth, _NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)} | {
    f"resnet{depth}x4": (depth, _WIDE) for depth in (8, 32)
}
_EXAMPLES = [
    "cnn_8",
    "cnn_32",
    "mlp_64",
    "bag_64",
    "transformer_64_2",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_2",
    "wrn_28_10",
    *_VGGS,
    *_RESNETS,
]


def available() -> dict[str, str]:
    """Each family of names that `create` knows, with a sentence about it."""
    return {
        "cnn_W": "small convolutional net of base width W for small images, such as cnn_8",
        "mlp_W": "two hidden layers of W units for vectors, such as mlp_64",
        "bag_D": "mean of D-wide embeddings of words and their parts, one hidden layer, for text, such as bag_64",
        "transformer_D_L": "L encoder blocks of width D over words, for text, such as transformer_64_2",
        "vggD": f"VGG with batch norm for small images: {', '.join(_VGGS)}",
        "wrn_D_K": "wide residual net of depth D = 6 n + 4 and width K for small images, such as wrn_16_2",
        "resnetD": f"residual net for small images: {', '.join(_RESNETS)}",
        "timm:NAME": "model of timm (pip install 'tuition[timm]'), such as timm:resnet18; pretrained=true for its "
        "published weights",
        "transformers:NAME": "encoder of text or classifier of images, from the hub or a folder "
        "(pip install 'tuition[transformers]')",
        "package.module:factory": "your own function or class, given num_classes and in_channels where it takes them; "
        "it returns a model, or (model, preprocessing or tokenizer)",
        "runs/NAME": "the student of a finished run, with a new head where the classes differ",
    }


def reads_text(name: str) -> bool:
    """Whether the zoo's model of this name is of text."""
    return name.startswith(("bag_", "transformer_"))


def reads_tokens(model: nn.Module) -> bool:
    """Whether a model reads token ids."""
    return isinstance(model, NamedModel) and isinstance(model.own_preprocess(), TextReader)


def create(
    name: str, *, num_classes: int, in_channels: int = 3, seed: int | None = None, pretrained: bool | None = None
) -> nn.Module:
    """A new model from preprocessed inputs (of text: token ids) to logits (n, num_classes).

    Args:
        name: one of `available()`.
        num_classes: k, the width of the logits.
        in_channels: c of images (n, c, h, w), each side 8 pixels or more; d of vectors (n, d) for `mlp_W`;
            models of text ignore it.
        seed: initial weights follow from it alone, and the caller's random state stays as it was.
        pretrained: start from published weights; the default is no for `timm:NAME` and yes for `transformers:NAME`.

    Raises:
        UserError: unknown name, impossible numbers, a missing extra, or a factory that cannot be used.
    """
    return make(
        name, num_classes=num_classes, in_channels=in_channels, seed=seed, start=Start(pretrained=pretrained)
    ).model


def make(name: str, *, num_classes: int, in_channels: int, seed: int | None = None, start: Start = Start()) -> Made:  # noqa: B008
    """As `create`, with what the model is made from and the preprocessing that belongs to it.

    Raises:
        UserError: as `create`; a setting of `start` that this kind of model does not have.
    """
    if num_classes < 1 or in_channels < 1:
        raise UserError(f"{name} needs at least one class and one channel, not {num_classes} and {in_channels}.")
    kind = name.partition(":")[0] if name.startswith(("timm:", "transformers:")) else ""
    _check_start(name, kind, start)
    recipe = {"name": name, "num_classes": num_classes, "in_channels": in_channels}
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed accelerators too
        if kind == "transformers":
            made = transformers.make(name, num_classes, in_channels, start)
        elif kind == "timm":
            made = Made(*_from_timm(name, num_classes, in_channels, start), recipe)
        elif factories.is_factory(name):
            made = Made(*_from_factory(name, num_classes, in_channels), recipe)
        else:
            model = _from_zoo(name, num_classes, in_channels)
            if start.head == "repdistiller":
                model.begin_as_repdistiller()
            made = Made(model, None, recipe)
    if isinstance(made.model, NamedModel):
        made.model.recipe = made.recipe
        made = replace(made, preprocess=made.model.own_preprocess())
    return made


def rebuild(recipe: Mapping[str, Any]) -> Made:
    """The architecture of a recipe (see `Made`), with random weights. Only a factory that it names runs code."""
    if recipe["name"].startswith("transformers:"):
        return Made(transformers.rebuild(recipe), None, dict(recipe))
    start = Start(pretrained=False if recipe["name"].startswith("timm:") else None)
    return make(recipe["name"], num_classes=recipe["num_classes"], in_channels=recipe["in_channels"], start=start)


def recipe_of(model: nn.Module) -> dict[str, Any] | None:
    """What makes the architecture of a model that `create` made; None for any other."""
    if isinstance(model, NamedModel):
        return model.recipe
    about = getattr(model, "pretrained_cfg", None)  # which timm writes onto its models
    architecture = about.get("architecture") if isinstance(about, dict) else getattr(about, "architecture", None)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if not isinstance(architecture, str) or first is None:
        return None
    classes = int(model.num_classes)  # type: ignore[arg-type]
    return {"name": f"timm:{architecture}", "num_classes": classes, "in_channels": first.in_channels}


def fine_tunes(student: object, start: Start | None) -> bool:
    """Whether a student that is given by name begins with trained weights."""
    if not isinstance(student, str):
        return False
    begins = start or Start()
    published = begins.pretrained is not False if student.startswith("transformers:") else bool(begins.pretrained)
    return published or begins.weights is not None or not _is_made(student)


def _is_made(name: str) -> bool:
    """Whether `make` makes a model of this name; if not, it is a folder."""
    return not (Path(name).exists() or huggingface.is_repository(name))


# The settings of `Start` that each kind of model has.
_STARTS = {
    "timm": {"pretrained", "weights", "resolution"},
    "transformers": {"pretrained", "layers", "pooling", "max_tokens", "resolution"},
    "": {"head"},
}


def _check_start(name: str, kind: str, start: Start) -> None:
    for setting in transformers.described(start):
        if setting not in _STARTS[kind] | {"trust_code"}:
            others = [
                f"{other}:NAME" if other else "VGG and ResNet" for other, has in _STARTS.items() if setting in has
            ]
            raise UserError(f"{name} has no setting {setting}; it is for {' and '.join(others)}.")
    if start.weights is not None and start.pretrained:
        raise UserError("pretrained and weights both name what a student starts from; give one of them.")


def _from_zoo(name: str, num_classes: int, in_channels: int) -> NamedModel:
    if name in _VGGS:
        return VGG(_VGGS[name], num_classes, in_channels)
    if name in _RESNETS:
        return ResNet(*_RESNETS[name], num_classes, in_channels)
    if match := re.fullmatch(r"cnn_([1-9]\d{0,3})", name):
        return CNN(int(match[1]), num_classes, in_channels)
    if match := re.fullmatch(r"mlp_([1-9]\d{0,4})", name):
        return MLP(int(match[1]), num_classes, in_channels)
    if match := re.fullmatch(r"bag_([1-9]\d{0,3})", name):
        return Bag(int(match[1]), num_classes)
    if match := re.fullmatch(r"transformer_([1-9]\d{1,3})_([1-9]\d?)", name):
        width, depth = int(match[1]), int(match[2])
        if width % 32 != 0:
            raise UserError(f"{name}: the width must be a multiple of 32, the width of a head, not {width}.")
        return Transformer(width, depth, num_classes)
    if match := re.fullmatch(r"wrn_([1-9]\d{1,3})_([1-9]\d?)", name):
        depth, width = int(match[1]), int(match[2])
        if depth < 10 or depth % 6 != 4:
            raise UserError(f"{name}: the depth must be 6 n + 4, such as 10, 16, 22, 28 or 40, not {depth}.")
        return WideResNet(depth, width, num_classes, in_channels)
    raise UserError(f"{name!r} is not a model{nearest(name, _EXAMPLES)}; models are {', '.join(available())}.")


def _from_timm(name: str, num_classes: int, in_channels: int, start: Start) -> tuple[nn.Module, nn.Module | None]:
    """The model; for pretrained weights also the preprocessing that they were trained with."""
    architecture = name.removeprefix("timm:")
    if not re.fullmatch(r"[\w.-]+", architecture):  # hf-hub:... and local-dir:... are other people's files
        raise UserError(f"{name} is not the name of one of timm's models, such as timm:resnet18; give such a name.")
    timm = huggingface.timm(name)
    if not timm.is_model(architecture):
        near = nearest(architecture, timm.list_models())
        raise UserError(f"timm has no model {architecture!r}{near}; timm.list_models() has them all.")
    if start.weights is not None and not Path(start.weights).is_file():
        raise UserError(f"the weights {start.weights} were not found; name a safetensors file of {architecture}.")
    overlay = {} if start.weights is None else {"file": start.weights}
    try:
        model = timm.create_model(
            architecture,
            num_classes=num_classes,
            in_chans=in_channels,
            pretrained=bool(start.pretrained) or start.weights is not None,
            **({"pretrained_cfg_overlay": overlay} if overlay else {}),
        )
    except Exception as error:  # a tag without weights, no network, channels that a model cannot take, ...
        raise UserError(
            f"timm cannot make {architecture!r} ({error!r}); check the name, the weights, the channels and the network."
        ) from error
    if not (start.pretrained or start.weights):
        if start.pretrained is None:
            warnings.warn(
                f"{name} starts from random weights; set pretrained=true for its published ones.", Notice, stacklevel=2
            )
        return model, None
    config = timm.data.resolve_model_data_config(model)
    size = start.resolution or config["input_size"][1]
    preprocess = Preprocess(config["mean"], config["std"], size=size, interpolation=config["interpolation"])
    return model, preprocess


def _from_factory(name: str, num_classes: int, in_channels: int) -> tuple[nn.Module, nn.Module | None]:
    factory = factories.find(name)
    offered = {"num_classes": num_classes, "in_channels": in_channels}
    try:
        signature = inspect.signature(factory)
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
        accepted = {key: value for key, value in offered.items() if takes_all or key in signature.parameters}
        signature.bind(**accepted)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} needs more than num_classes and in_channels: {error}; give it defaults.") from error
    made = factories.call(name, factory, **accepted)
    model, preprocess = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} returned {factories.kind(model)}; it must return a torch.nn.Module.")
    return model, None if preprocess is None else _preprocess(name, preprocess)


class _Called(nn.Module):
    """Preprocessing by a function of the user."""

    def __init__(self, function: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Any) -> Tensor:
        return self.function(inputs)


def _preprocess(name: str, preprocess: Any) -> nn.Module:
    """A module, a tokenizer of transformers, or any function from raw inputs to the model's."""
    backend = getattr(preprocess, "backend_tokenizer", None)
    if backend is not None:
        length, padding = preprocess.model_max_length, preprocess.pad_token_id
        return Tokenizer(backend.to_str(), min(length, Start().max_tokens), -1 if padding is None else padding)
    if isinstance(preprocess, nn.Module):
        return preprocess
    if not callable(preprocess):
        kind = factories.kind(preprocess)
        raise UserError(f"{name} returned {kind} as preprocessing; return a module, a function or a tokenizer.")
    return _Called(preprocess)


def nearest(name: str, names: Iterable[str]) -> str:
    """ " (nearest: a, b, c)" for a sentence about an unknown name, whatever the case; empty where nothing is near."""
    spelt = {known.lower(): known for known in names}
    near = [spelt[known] for known in get_close_matches(name.lower(), spelt)]
    return f" (nearest: {', '.join(near)})" if near else ""
