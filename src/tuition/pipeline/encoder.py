"""Features that tell inputs apart, by what a job has."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from tuition import models
from tuition.data import Pool, TransferSet, nearness
from tuition.errors import UserError
from tuition.pipeline.parts import AskSettings
from tuition.pipeline.settings import DistillSettings
from tuition.training import load
from tuition.training.preflight import build_student, pick_device

SMALL = 1024  # values of an image whose pixels say something about what is in it
KINDS = ("timm:", "transformers:")  # of encoders with published weights


def features_of(pool: Pool, ask: AskSettings, device: str = "auto") -> Tensor | None:
    """Features (n, d) by the encoder that the settings name; None where they name none."""
    if ask.features is None:
        return None
    if ask.features.startswith(KINDS) or (":" in ask.features and not Path(ask.features).exists()):
        start = models.Start(pretrained=True if ask.features.startswith(KINDS) else None, trust_code=ask.trust_code)
        encoder = build_student(ask.features, pool, pool.num_classes or 2, None, 0, start=start)
    else:
        encoder = load(ask.features, trust_code=ask.trust_code)
    return encoder.to(pick_device(device)).features(pool).flatten(1)


def encoded(settings: DistillSettings, pool: Pool) -> Tensor | None:
    """Features (n, d) of the encoder that the settings name, or of a student that begins with trained weights; else
    vectors themselves and the pixels of small images. None where nothing tells inputs apart."""
    features = features_of(pool, settings.ask, settings.device)
    if features is not None:
        return features
    if models.fine_tunes(settings.student, settings.student_start):
        begun = build_student(
            settings.student, pool, pool.num_classes or 2, None, settings.data.seed, start=settings.student_start
        )
        return begun.to(pick_device(settings.device)).features(pool).flatten(1)
    large = pool.kind == "images" and math.prod(pool.shape) > SMALL
    if pool.kind == "texts" or not pool.in_memory or large:
        return None
    values = pool.asked_tensor().flatten(1)
    return values.float() / 255 if values.dtype == torch.uint8 else values


def nearness_of(settings: DistillSettings, transfer: TransferSet, unasked: Pool | None) -> Tensor | None:
    """The nearness of unasked inputs to those that were answered, where the settings have them learn by it."""
    if unasked is None or not settings.neighbours:
        return None
    near, asked = (encoded(settings, each) for each in (unasked, transfer.pool))
    assert near is not None
    return nearness(near, asked, neighbours=settings.neighbours)


def check_neighbours(settings: DistillSettings, pool: Pool) -> None:
    """Refuse unasked inputs that are to learn by their nearness, and cannot.

    Raises:
        UserError: nothing tells inputs apart, or there are none.
    """
    if not settings.neighbours:
        return
    if not settings.unasked:
        raise UserError("neighbours are of unasked inputs; set unasked: all too, or leave neighbours out.")
    if encoded(settings, pool[:2]) is None:
        raise UserError(
            "these inputs have no features of their own to find neighbours by; name an encoder, as in "
            "--set features=timm:resnet18, or set neighbours: 0."
        )
