"""Students and teachers: models by name, what they are made of, their features, weights and preprocessing."""

from tuition.models.copies import copied, initialise, with_head
from tuition.models.features import (
    Capture,
    Layer,
    classifier,
    describe,
    forward_with_features,
    module,
    num_parameters,
    stages,
)
from tuition.models.named import Made, NamedModel, Start
from tuition.models.preprocess import Preprocess
from tuition.models.readers import TOKENIZER, TextReader, Tokenizer
from tuition.models.text import Hashing
from tuition.models.weights import load_tensors, load_weights, packed, read_tensors, save_weights, unpacked
from tuition.models.zoo import available, create, fine_tunes, make, reads_text, reads_tokens, rebuild, recipe_of

__all__ = [
    "TOKENIZER",
    "Capture",
    "Hashing",
    "Layer",
    "Made",
    "NamedModel",
    "Preprocess",
    "Start",
    "TextReader",
    "Tokenizer",
    "available",
    "classifier",
    "copied",
    "create",
    "describe",
    "fine_tunes",
    "forward_with_features",
    "initialise",
    "load_tensors",
    "load_weights",
    "make",
    "module",
    "num_parameters",
    "packed",
    "read_tensors",
    "reads_text",
    "reads_tokens",
    "rebuild",
    "recipe_of",
    "save_weights",
    "stages",
    "unpacked",
    "with_head",
]
