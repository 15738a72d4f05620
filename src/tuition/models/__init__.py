"""Students and teachers: models by name, what they are made of, their features, weights and preprocessing."""

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
from tuition.models.weights import load_weights, save_weights
from tuition.models.zoo import available, create, reads_text

__all__ = [
    "Capture",
    "Hashing",
    "Layer",
    "Preprocess",
    "available",
    "classifier",
    "create",
    "describe",
    "forward_with_features",
    "load_weights",
    "num_parameters",
    "reads_text",
    "save_weights",
    "stages",
]
