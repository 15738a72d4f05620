"""Students of Hugging Face transformers: encoders of text with a linear head, and classifiers of images."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuition import huggingface
from tuition.errors import Notice, UserError
from tuition.models.named import Made, NamedModel, Start
from tuition.models.preprocess import Preprocess
from tuition.models.readers import Tokenizer

RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # of Pillow


class TextStudent(NamedModel):
    """Token ids (n, length) -> (n, num_classes): an encoder, its tokens pooled, and a linear layer.

    Columns that hold padding in every row are cut off before the encoder, so that a batch costs what its longest text
    does.
    """

    def __init__(
        self, encoder: nn.Module, width: int, num_classes: int, pooling: str, reader: Tokenizer | None
    ) -> None:
        super().__init__()
        self.encoder, self.pooling, self.reader = encoder, pooling, reader
        self.padding = 0 if reader is None else reader.padding
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids != self.padding
        if not torch.compiler.is_compiling():
            used = mask.any(0).nonzero()
            longest = 1 if len(used) == 0 else int(used.max()) + 1
            ids, mask = ids[:, :longest], mask[:, :longest]
        first = torch.arange(ids.shape[1], device=ids.device) == 0
        mask = mask | first  # a text of padding alone yields numbers too
        hidden = self.encoder(input_ids=ids.long(), attention_mask=mask.long()).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = hidden[:, 0] if self.pooling == "cls" else (hidden * weight).sum(1) / weight.sum(1)
        return self.classifier(pooled)

    def own_preprocess(self) -> nn.Module | None:
        return self.reader


class ImageStudent(NamedModel):
    """Normalised images (n, c, h, w) -> logits (n, num_classes)."""

    def __init__(self, network: nn.Module, preprocess: Preprocess | None) -> None:
        super().__init__()
        self.network = network
        self._preprocess = (preprocess,)  # in a tuple, so that it is not a part of the model

    def forward(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=images).logits

    def own_preprocess(self) -> nn.Module | None:
        return self._preprocess[0]


def make(name: str, num_classes: int, in_channels: int, start: Start) -> Made:
    """The student `transformers:NAME_OR_FOLDER`, with the weights of that model and a new head.

    Raises:
        UserError: transformers is missing, or the model cannot be used.
    """
    place = name.partition(":")[2]
    package = huggingface.transformers("a student")
    folder = huggingface.folder(place)
    with huggingface.loading(place, folder):
        config = package.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        architecture = (config.architectures or ["nothing"])[0]
        if "ForImageClassification" in architecture:
            return _images(name, folder, config, num_classes, in_channels, start)
        if huggingface.reads_text(folder):
            return _texts(name, folder, config, num_classes, in_channels, start)
    raise UserError(
        f"{place} is a {architecture}, which reads neither texts through a tokenizer nor images as a classifier; use "
        "such a model, or a factory of your own."
    )


def rebuild(recipe: Mapping[str, Any]) -> nn.Module:
    """The architecture of a recipe, with random weights; nothing is downloaded, and no code of others runs."""
    package = huggingface.transformers("a student")
    huggingface.refuse_kernels(recipe["config"], "run.json")
    try:
        config = package.AutoConfig.for_model(**recipe["config"])
        if recipe["kind"] == "images":
            network = package.AutoModelForImageClassification.from_config(config, trust_remote_code=False)
            return ImageStudent(network, None)
        encoder = package.AutoModel.from_config(config, trust_remote_code=False)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the model in run.json cannot be made ({error}); restore the file.") from error
    model = TextStudent(_without_pooler(encoder), config.hidden_size, recipe["num_classes"], recipe["pooling"], None)
    model.padding = recipe["padding"]
    return model


def _texts(name: str, folder: Path, config: Any, num_classes: int, in_channels: int, start: Start) -> Made:
    package = huggingface.transformers("a student")
    tokenizer = package.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{folder} has no tokenizer.json; save the tokenizer in that form (`save_pretrained`).")
    if start.layers is not None:
        if start.layers > config.num_hidden_layers:
            raise UserError(f"layers: {start.layers} is more than the {config.num_hidden_layers} of {name}; lower it.")
        config.num_hidden_layers = start.layers
    if start.pretrained is False:
        encoder = package.AutoModel.from_config(config, trust_remote_code=False)
    else:
        encoder = package.AutoModel.from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    encoder = _without_pooler(encoder)
    positions = getattr(config, "max_position_embeddings", None) or start.max_tokens
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else -1
    length = min(start.max_tokens, positions, tokenizer.model_max_length)
    reader = Tokenizer(backend.to_str(), length, padding)
    model = TextStudent(encoder, config.hidden_size, num_classes, start.pooling, reader)
    recipe = _recipe(name, num_classes, in_channels, "texts", config)
    return Made(model, reader, recipe | {"pooling": start.pooling, "padding": padding})


def _images(name: str, folder: Path, config: Any, num_classes: int, in_channels: int, start: Start) -> Made:
    package = huggingface.transformers("a student")
    processor = package.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    channels = getattr(config, "num_channels", 3)
    if channels != in_channels:
        raise UserError(f"{name} reads images of {channels} channels, and the data's have {in_channels}; convert them.")
    config.num_labels = num_classes
    if start.pretrained is False:
        network = package.AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    else:
        network = package.AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
    preprocess = _preprocess(name, processor, channels, start.resolution)
    model = ImageStudent(network, preprocess)
    return Made(model, preprocess, _recipe(name, num_classes, in_channels, "images", config))


def _preprocess(name: str, processor: Any, channels: int, resolution: int | None) -> Preprocess:
    """What an image processor does, with one step for its resize and its crop: a squash to the size that it gives."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    interpolation = RESAMPLING.get(int(processor.resample)) if _has(processor, "resample") else "bilinear"
    if interpolation is None:
        interpolation = "bicubic"
        warnings.warn(f"{name} resizes by a filter that students do not have; bicubic is used.", Notice, stacklevel=2)
    normalised = getattr(processor, "do_normalize", True) and _has(processor, "image_mean")
    mean = processor.image_mean if normalised else [0.0] * channels
    std = processor.image_std if normalised else [1.0] * channels
    side = resolution or size.get("height") or size.get("shortest_edge")
    return Preprocess(mean, std, size=side, interpolation=interpolation)


def _has(processor: Any, name: str) -> bool:
    return getattr(processor, name, None) is not None


def _recipe(name: str, num_classes: int, in_channels: int, kind: str, config: Any) -> dict[str, Any]:
    made = {"name": name, "num_classes": num_classes, "in_channels": in_channels, "kind": kind}
    return made | {"config": json.loads(config.to_json_string(use_diff=False))}


def _without_pooler(encoder: nn.Module) -> nn.Module:
    """Of another task than ours, and without gradients here."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]
    return encoder


def described(start: Start) -> dict[str, Any]:
    """The values of a start that are not the defaults, as a run records them."""
    return {name: value for name, value in asdict(start).items() if value != getattr(Start(), name)}
