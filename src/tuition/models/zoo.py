"""Models by name: the families of the distillation literature, timm's, and any factory of the user's own."""

import inspect
import re
from collections.abc import Iterable
from difflib import get_close_matches

import torch
from torch import nn

from tuition import factories
from tuition.errors import UserError
from tuition.models.cnn import CNN, MLP
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
        "timm:NAME": "model of timm (pip install 'tuition[timm]'), such as timm:resnet18",
        "package.module:factory": "your own function or class, given num_classes and in_channels where it takes them",
    }


def reads_text(name: str) -> bool:
    """Whether the zoo's model of this name is of text."""
    return name.startswith(("bag_", "transformer_"))


def create(
    name: str, *, num_classes: int, in_channels: int = 3, seed: int | None = None, pretrained: bool = False
) -> nn.Module:
    """A new model from normalised float inputs (of text: token ids) to logits (n, num_classes).

    Args:
        name: one of `available()`.
        num_classes: k, the width of the logits.
        in_channels: c of images (n, c, h, w), each side 8 pixels or more; d of vectors (n, d) for `mlp_W`;
            models of text ignore it.
        seed: initial weights follow from it alone, and the caller's random state stays as it was.
        pretrained: start from timm's published weights (`timm:NAME` only).

    Raises:
        UserError: unknown name, impossible numbers, a missing extra, or a factory that cannot be used.
    """
    if num_classes < 1 or in_channels < 1:
        raise UserError(f"{name} needs at least one class and one channel, not {num_classes} and {in_channels}.")
    if pretrained and not name.startswith("timm:"):
        raise UserError(f"{name} has no published weights: pretrained is for timm:NAME.")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed accelerators too
        if name.startswith("timm:"):
            model = _from_timm(name, num_classes, in_channels, pretrained)
        elif factories.is_factory(name):
            model = _from_factory(name, num_classes, in_channels)
        else:
            model = _from_zoo(name, num_classes, in_channels)
    # What a run folder records, so that the same architecture can be made again for the weights beside it.
    model.recipe = {"name": name, "num_classes": num_classes, "in_channels": in_channels}  # type: ignore[assignment]
    return model


def _from_zoo(name: str, num_classes: int, in_channels: int) -> nn.Module:
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


def _from_timm(name: str, num_classes: int, in_channels: int, pretrained: bool) -> nn.Module:
    architecture = name.removeprefix("timm:")
    if not re.fullmatch(r"[\w.-]+", architecture):  # hf-hub:... and local-dir:... are other people's files
        raise UserError(f"{name} is not the name of one of timm's models, such as timm:resnet18; give such a name.")
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        raise UserError(f"{name} needs timm (pip install 'tuition[timm]'), which does not import: {error}.") from error
    if not timm.is_model(architecture):
        near = nearest(architecture, timm.list_models())
        raise UserError(f"timm has no model {architecture!r}{near}; timm.list_models() has them all.")
    try:
        return timm.create_model(architecture, num_classes=num_classes, in_chans=in_channels, pretrained=pretrained)
    except Exception as error:  # a tag without weights, no network, channels that a model cannot take, ...
        raise UserError(
            f"timm cannot make {architecture!r} ({error!r}); check the name, the channels and the network."
        ) from error


def _from_factory(name: str, num_classes: int, in_channels: int) -> nn.Module:
    factory = factories.find(name)
    offered = {"num_classes": num_classes, "in_channels": in_channels}
    try:
        signature = inspect.signature(factory)
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
        accepted = {key: value for key, value in offered.items() if takes_all or key in signature.parameters}
        signature.bind(**accepted)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} needs more than num_classes and in_channels: {error}; give it defaults.") from error
    model = factories.call(name, factory, **accepted)
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} returned {factories.kind(model)}; it must return a torch.nn.Module.")
    return model


def nearest(name: str, names: Iterable[str]) -> str:
    """ " (nearest: a, b, c)" for a sentence about an unknown name, whatever the case; empty where nothing is near."""
    spelt = {known.lower(): known for known in names}
    near = [spelt[known] for known in get_close_matches(name.lower(), spelt)]
    return f" (nearest: {', '.join(near)})" if near else ""
