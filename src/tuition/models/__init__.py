"""Students and teachers: models by name, what they are made of, their features, weights and preprocessing."""

from tuition.models.copies import copied, first_line, initialise
from tuition.models.features import (
    Capture,
    Layer,
    classifier,
    describe,
    forward_with_features,
    num_parameters,
    stages,
)
from tuition.models.preprocess import Preprocess
from tuition.models.text import Hashing
from tuition.models.weights import load_tensors, load_weights, packed, save_weights, unpacked
from tuition.models.zoo import available, create, reads_text

__all__ = [
    "Capture",
    "Hashing",
    "Layer",
    "Preprocess",
    "available",
    "classifier",
    "copied",
    "create",
    "describe",
    "first_line",
    "forward_with_features",
    "initialise",
    "load_tensors",
    "load_weights",
    "num_parameters",
    "packed",
    "reads_text",
    "save_weights",
    "stages",
    "unpacked",
]
