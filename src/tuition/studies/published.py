"""The values that the paper printed, and its names for methods, from paper/_published.yaml."""

from __future__ import annotations

from importlib import resources
from typing import Any


def read() -> dict[str, Any]:
    """The file: the data set, the baselines, our names for the paper's CKD, and both tables."""
    import yaml

    text = resources.files("tuition.studies").joinpath("paper", "_published.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def table1(dataset: str, teacher: str, student: str) -> dict[str, dict[float, float]]:
    """Published calls by method and target accuracy; empty for a pair that the paper does not have."""
    return {
        method: {target: round(1000 * k) for target, k in values.items() if k is not None}
        for method, values in _rows("table1", "targets", dataset, teacher, student).items()
    }


def table2(dataset: str, teacher: str, student: str) -> dict[str, dict[int, tuple[float, float]]]:
    """Published (mean, std) by method and calls; empty for a pair that the paper does not have."""
    return {
        method: {calls: (mean, std) for calls, (mean, std) in values.items()}
        for method, values in _rows("table2", "calls", dataset, teacher, student).items()
    }


def _rows(table: str, columns: str, dataset: str, teacher: str, student: str) -> dict[str, dict[Any, Any]]:
    printed = read()
    if dataset != printed["data"]:
        return {}
    names, pairs = printed[table][columns], printed[table]["pairs"]
    rows = pairs.get(f"{teacher} {student}", {})
    return {method: dict(zip(names, values, strict=True)) for method, values in rows.items()}
