"""What models that are made by name have in common, and how a student begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn


class NamedModel(nn.Module):
    """A model that `models.create` makes by a name.

    Attributes:
        recipe: what makes the same architecture again, without weights (see `models.rebuild`); None for a model that
            was constructed in another way.
    """

    recipe: dict[str, Any] | None = None

    def begin_as_repdistiller(self) -> None:
        """Give the last layer the initial weights that it has in RepDistiller, where these differ from ours."""

    def own_preprocess(self) -> nn.Module | None:
        """From raw inputs to what the model reads, if it was made for one way of reading."""
        return None


@dataclass(frozen=True)
class Start:
    """What a student begins with; the defaults are random weights, and published ones for `transformers:`.

    Attributes:
        pretrained: whether published weights are loaded.
        weights: safetensors file in the layout of the model's library (timm), instead of published ones.
        layers: number of a text encoder's first layers that are kept; None keeps all of them.
        pooling: of an encoder of text: the mean over tokens, or the first token.
        head: initial weights of the last layer of VGG and ResNet: the default of PyTorch with bias 0, or as
            RepDistiller (Tian et al. 2020) begins with.
        max_tokens: longest text; the rest is cut off.
        resolution: pixels a side that the model sees; pictures are resized to it. None: as the model was trained.
        trust_code: run code that a folder names.
    """

    pretrained: bool | None = None
    weights: str | None = None
    layers: int | None = None
    pooling: Literal["mean", "cls"] = "mean"
    max_tokens: int = 128
    resolution: int | None = None
    head: Literal["default", "repdistiller"] = "default"
    trust_code: bool = False


@dataclass(frozen=True)
class Made:
    """A new model, its own way of reading raw inputs if it has one, and what makes the same architecture again."""

    model: nn.Module
    preprocess: nn.Module | None
    recipe: dict[str, Any] | None
