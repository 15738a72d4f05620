"""Models of Hugging Face transformers as teachers: classifiers of images and texts, and sentence encoders."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuition import huggingface
from tuition.errors import UserError
from tuition.teachers.fingerprint import short
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.protocol import NotCharged
from tuition.teachers.pytorch import TorchTeacher

BOOKKEEPING = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}  # of a config, not of its answers


def from_transformers(
    name_or_folder: str | Path, *, name: str | None = None, class_names: Sequence[str] | None = None
) -> TorchTeacher:
    """A teacher from a model of transformers (`pip install 'tuition[transformers]'`), on the CPU until it is moved.

    What it does follows from the architecture that its configuration names:

    * `...ForImageClassification` reads uint8 images (b, c, h, w) through its own image processor, and answers
      {"logits": (b, k)};
    * `...ForSequenceClassification` reads b strings, and answers {"logits": (b, k)};
    * an encoder of text alone, or what holds a `modules.json` of sentence-transformers, reads b strings and answers
      {"embedding": (b, d)}: the last hidden state, averaged over each text's tokens and scaled to length one, or as
      `modules.json` says (Reimers and Gurevych, "Sentence-BERT", 2019).

    Texts are cut at the most tokens that the model reads. The fingerprint holds the digests of the weights, the
    configuration, and the tokenizer or the image processor.

    Args:
        name_or_folder: a folder in the layout of the hub, with weights in safetensors, or a name on the hub.
        name: what people call it; by default the last part of `name_or_folder` and eight digits of the fingerprint.
        class_names: one name a class, in the order of the logits; by default the configuration's `id2label`, unless its
            names are LABEL_0, LABEL_1 and so on.

    Raises:
        UserError: transformers is missing, the model cannot be loaded, lacks weights, or is of another kind.
    """
    package = huggingface.transformers("a teacher")
    folder = huggingface.folder(str(name_or_folder))
    with huggingface.loading(name_or_folder, folder):
        config = package.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        architecture = (config.architectures or ["nothing"])[0]
        about = f"config {_digest({k: v for k, v in config.to_diff_dict().items() if k not in BOOKKEEPING})}"
        if "ForImageClassification" in architecture:
            images = _weights(package.AutoModelForImageClassification, folder)
            teacher = TorchTeacher(images, None, _images(folder, config, about), reads="bytes")
        elif "ForSequenceClassification" in architecture:
            model = _weights(package.AutoModelForSequenceClassification, folder)
            texts = _texts(folder, config, about, model)
            unpadded = getattr(config, "pad_token_id", None) is None
            teacher = TorchTeacher(OneByOne(model) if unpadded else model, None, texts, reads="texts")
        elif (folder / "modules.json").exists() or (architecture.endswith("Model") and huggingface.reads_text(folder)):
            encoder = _weights(package.AutoModel, folder)
            texts = _texts(folder, config, about, encoder)
            teacher = TorchTeacher(_sentence_encoder(encoder, folder), None, texts, reads="texts")
        else:
            raise UserError(
                f"{name_or_folder} is a {architecture}, which answers neither with classes nor with embeddings of "
                "texts; use a classifier of images or texts, or a sentence encoder, or wrap it and use from_torch."
            )
    names = _names(None if isinstance(teacher.model, SentenceEncoder) else config, class_names)
    name = name or f"{Path(name_or_folder).name}-{short(teacher.fingerprint)}"
    return replace(teacher, given_name=name, class_names=names)


def _names(config: Any | None, chosen: Sequence[str] | None) -> tuple[str, ...] | None:
    """The class names of a classifier: those chosen, else the configuration's, unless these only count, or repeat."""
    if config is None or chosen is not None:
        return checked_names(chosen, config.num_labels if config is not None else 0)
    names = [str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels)]
    counted = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return None if counted or len(set(names)) < len(names) else checked_names(names)


def _weights(auto_model: Any, folder: Path) -> nn.Module:
    model, report = auto_model.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True, trust_remote_code=False
    )
    missing = set(report["missing_keys"])
    if any(key.startswith("pooler.") for key in missing):  # of a task that is not ours, and drawn at random
        model.pooler = None
        missing = {key for key in missing if not key.startswith("pooler.")}
    if missing:
        raise UserError(
            f"the weights in {folder} lack {', '.join(sorted(missing)[:3])} of {type(model).__name__}, which would be "
            "random; give a model that was trained for this."
        )
    return model


# -- what a model reads ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Through the model's own image processor, one by one."""

    processor: Any
    channels: int
    description: str

    def __call__(self, inputs: Any, /) -> Mapping[str, Tensor]:
        if inputs.shape[1] == 1 and self.channels == 3:  # grey, as three equal channels
            inputs = inputs.expand(-1, 3, -1, -1)
        if inputs.shape[1] != self.channels:
            raise NotCharged(
                f"this teacher reads images of {self.channels} channels, not of {inputs.shape[1]}", retry=False
            )
        images = list(inputs.cpu().numpy())
        return dict(self.processor(images, input_data_format="channels_first", return_tensors="pt"))

    def __str__(self) -> str:
        return self.description


def _images(folder: Path, config: Any, about: str) -> Images:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    return Images(
        processor, getattr(config, "num_channels", 3), f"{about}; preprocessing {_digest(processor.to_json_string())}"
    )


@dataclass(frozen=True)
class Texts:
    """Through the model's own tokenizer, padded to the longest of the batch."""

    tokenizer: Any
    accepted: frozenset[str]
    most_tokens: int
    prompt: str
    lower: bool
    description: str

    def __call__(self, inputs: Any, /) -> Mapping[str, Tensor]:
        texts = [self.prompt + (text.lower() if self.lower else text) for text in inputs]
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.most_tokens, return_tensors="pt")
        return {name: value for name, value in tokens.items() if name in self.accepted}

    def __str__(self) -> str:
        prompt = f" prompt {self.prompt!r}" if self.prompt else ""
        return f"{self.description}; at most {self.most_tokens} tokens{' lower case' * self.lower}{prompt}"


def _texts(folder: Path, config: Any, about: str, model: nn.Module) -> Texts:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token is None:
        _pad(tokenizer, config)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = tokenizer.get_vocab() if backend is None else backend.to_str()
    settings = huggingface.read_json(folder / "sentence_bert_config.json")
    prompts = huggingface.read_json(folder / "config_sentence_transformers.json")
    most = settings.get("max_seq_length") or min(
        tokenizer.model_max_length, getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    )
    prompt = prompts.get("prompts", {}).get(prompts.get("default_prompt_name"), "")
    return Texts(
        tokenizer,
        frozenset(inspect.signature(model.forward).parameters),
        most,
        prompt,
        bool(settings.get("do_lower_case")),
        f"{about}; tokenizer {_digest([tokenizer.padding_side, vocabulary])}",
    )


def _pad(tokenizer: Any, config: Any) -> None:
    """Give a tokenizer without a padding token one; what is padded is masked.

    Raises:
        UserError: there is nothing to pad with.
    """
    known = getattr(config, "pad_token_id", None)
    token = tokenizer.convert_ids_to_tokens(known) if isinstance(known, int) and known >= 0 else None
    token = token or tokenizer.eos_token or tokenizer.unk_token
    if token is None:
        raise UserError(
            "this model's tokenizer has no token for padding, the end or unknown words; set its pad_token and save it."
        )
    tokenizer.pad_token = token


class OneByOne(nn.Module):
    """A classifier without a padding token, which finds the last token of a text by it: texts go in one at a time."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **tokens: Tensor) -> dict[str, Tensor]:
        rows = []
        for row, kept in enumerate(tokens["attention_mask"].bool()):
            rows.append(self.model(**{name: value[row : row + 1, kept] for name, value in tokens.items()}).logits)
        return {"logits": torch.cat(rows)}


# -- sentence encoders -------------------------------------------------------------------------------------------------


class SentenceEncoder(nn.Module):
    """Tokens -> {"embedding": (b, d)}: the mean of the tokens' last hidden states, or the first one's ("cls")."""

    def __init__(self, encoder: nn.Module, pooling: str, normalised: bool) -> None:
        super().__init__()
        self.encoder, self.pooling, self.normalised = encoder, pooling, normalised

    def forward(self, **tokens: Tensor) -> dict[str, Tensor]:
        hidden = self.encoder(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"]
        if self.pooling == "cls":
            embedding = hidden[torch.arange(len(hidden)), mask.argmax(dim=1)]  # the padding may stand on the left
        else:
            weight = mask.unsqueeze(-1).float()
            embedding = (hidden * weight).sum(1) / weight.sum(1)
        return {"embedding": nn.functional.normalize(embedding, dim=1) if self.normalised else embedding}

    def extra_repr(self) -> str:
        return f"pooling={self.pooling}, normalised={self.normalised}"


def _sentence_encoder(encoder: nn.Module, folder: Path) -> SentenceEncoder:
    """With the pooling that `modules.json` asks for; where there is none, sentence-transformers' usual one.

    Raises:
        UserError: modules or a pooling other than those known here.
    """
    modules = huggingface.read_json(folder / "modules.json")
    if not modules:
        return SentenceEncoder(encoder, "mean", True)
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]) or modules[0]["path"]:
        raise UserError(
            f"{folder} is a sentence encoder of {', '.join(kinds)}; only Transformer, Pooling and Normalize are known."
        )
    settings = huggingface.read_json(folder / modules[1]["path"] / "config.json")
    asked = settings.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")
        for key, value in settings.items()
        if key.startswith("pooling_mode_") and value
    ]
    asked = [asked] if isinstance(asked, str) else list(asked)
    asked += ["the words after the prompt"] * (not settings.get("include_prompt", True))
    if asked not in (["mean"], ["cls"]):
        raise UserError(f"{folder} pools its tokens by {', '.join(asked) or 'nothing'}; only mean and cls are known.")
    return SentenceEncoder(encoder, asked[0], len(kinds) == 3)


def _digest(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
