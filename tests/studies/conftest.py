"""Synthetic run records with a known truth: accuracy is a power law of the calls, one limit a method."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from tuition.studies.records import Record

LIMITS = {"ckd": 74.0, "crd": 71.0, "mixup": 70.0, "mse": 73.0, "dist": 68.0, "rkd": 67.0, "kd": 66.0}


def truth(method: str, calls: int) -> float:
    return LIMITS[method] - 900 * calls**-0.42


def synthetic_runs(
    *,
    methods: Sequence[str] = tuple(LIMITS),
    calls: Sequence[int] = (1600, 2000, 2400, 2800, 3200, 3600, 4000),
    seeds: int = 5,
    noise: float = 0.7,
    selection: bool = False,
    **fields: Any,
) -> Iterator[Record]:
    """Done runs of a grid; a seed shifts all methods alike, so that pairing matters."""
    generator = np.random.default_rng(len(methods) + seeds)
    shift = noise * generator.standard_normal(seeds)
    common = {"dataset": "cifar100", "teacher": "wrn_40_2", "student": "wrn_16_2", "accounting": "published"} | fields
    for method, n, seed in product(methods, calls, range(seeds)):
        for rate in (0.1, 0.05, 0.025) if selection and seed == 0 and n == calls[0] else (0.05,):
            best = truth(method, n) + shift[seed] + 0.5 * noise * generator.standard_normal() - 20 * abs(rate - 0.05)
            key = "/".join(map(str, (*common.values(), method, n, seed, rate)))
            curve = [
                [float(e), 4.2 * math.exp(-e / 40), best * (1 - math.exp(-e / 30)) + generator.standard_normal()]
                for e in range(1, 121, 2)
            ]
            settings = {
                "train": {"batch_size": 64, "weight_decay": 5e-4, "learning_rate": rate, "seed": seed, "calls": n}
            }
            for purpose in ("result", "selection") if selection else ("result",):
                if (purpose, rate) != ("result", 0.05) and purpose == "result":
                    continue
                yield Record(
                    key=key,
                    method=method,
                    calls=n,
                    seed=seed,
                    learning_rate=rate,
                    schedule="cosine",
                    epochs=120,
                    purpose=purpose,
                    accuracy=best,
                    accuracy_last=best - 0.3,
                    validation=best + generator.standard_normal(),
                    top5=min(99.0, best + 28),
                    calibration_error=4 + generator.random(),
                    agreement=best + 4,
                    images_seen=n * 120,
                    steps=math.ceil(n / 64) * 120,
                    seconds=n / 20,
                    paid=n,
                    versions={"python": "3.11.7", "torch": "2.13.0", "tuition": "0.1.0"},
                    settings={"method": {"name": method, "anchor": 0.1}, **settings},
                    curve=curve,
                    **common,
                )


@pytest.fixture(scope="session")
def runs() -> Callable[..., list[Record]]:
    return lambda **kwargs: list(synthetic_runs(**kwargs))
