"""The README.md of a run: a model card, as the Hugging Face hub and people read it, made from run.json alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from tuition import escape, factories
from tuition.training import files

CARD = "README.md"
SHOWN_CLASSES = 20


class Figure(NamedTuple):
    """A row of the table of figures: its name, its value in percent, and on what it was measured."""

    name: str
    value: float
    on: str


def write(directory: Path, record: Mapping[str, Any]) -> None:
    """Write the card of a run beside its run.json, unless there is one: people add to it."""
    path = directory / CARD
    if not os.path.lexists(path):
        files.write(path, render(record).encode())


def remove_unedited(directory: Path, record: Mapping[str, Any]) -> None:
    """Remove the card of this record, whose figures will change, if nobody has added to it."""
    path = directory / CARD
    if path.is_file() and path.read_bytes() == render(record).encode():
        path.unlink()


def render(record: Mapping[str, Any]) -> str:
    """The text of the card: metadata in YAML, then Markdown.

    No absolute path of this machine, and no user, password or query of an address, is in it.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tuition.training"),
        finalize=escape.markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    public = escape.public(record)
    about = _about(public)
    text = environment.get_template("model_card.md").render(about, figures=_figures(public), record=public)
    return f"---\n{_metadata(record, public, about)}\n---\n{text}"


def _about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the template says of the student and its making."""
    settings, card = record["settings"], record["student"]
    recipe, learned = card["model"], record["learned_from"]
    teacher = settings.get("teacher_name") or learned["teacher"]
    classes = card["class_names"]
    shown = None if classes is None else ", ".join(classes[:SHOWN_CLASSES])
    if classes is not None and len(classes) > SHOWN_CLASSES:
        shown = f"{shown} and {len(classes) - SHOWN_CLASSES} more"
    return {
        "name": settings["student"] if recipe is None else recipe["name"],
        "own_code": recipe is None or factories.is_factory(recipe["name"]) or card["own_preprocess"],
        "trust": factories.named_in(settings),
        "reads": _kind(card),
        "output": card["output"],
        "count": None if recipe is None else recipe["num_classes"],
        "classes": shown,
        "data": settings.get("data") or learned["pool"],
        "teacher": None if settings["method"] == "ce" else teacher,  # which learns from labels alone
        "options": ", ".join(f"{name}={value}" for name, value in settings.get("options", {}).items()),
        "price": Decimal(record["bill"]["cost"]),
    }


def _kind(card: Mapping[str, Any]) -> str:
    if card["hashing"] is not None or card["tokenizer"] is not None:
        return "texts"
    return "images" if len(card["input_shape"]) == 3 else "vectors"


def _figures(record: Mapping[str, Any]) -> list[Figure]:
    results, measured = record["results"], record["measured"]
    test, chosen = measured.get("accuracy", "the test data"), measured.get("validation", "the validation data")
    rows = [
        ("accuracy", "test accuracy, weights of the best validation", test),
        ("accuracy_last", "test accuracy after the last epoch", test),
        ("top5", "test top-5 accuracy", test),
        ("calibration_error", "test calibration error", test),
        ("validation", "best validation, by which the epoch was chosen", chosen),
        ("agreement", "agreement with the teacher", measured.get("agreement", "the transfer set")),
        (
            "teacher_accuracy",
            "accuracy of the teacher",
            f"{results.get('teacher_inputs', 0):,} labels of the transfer set",
        ),
    ]
    return [Figure(name, results[key], on) for key, name, on in rows if results.get(key) is not None]


TASKS = {
    ("logits", "texts"): "text-classification",
    ("logits", "images"): "image-classification",
    ("logits", "vectors"): "tabular-classification",
    ("embedding", "texts"): "sentence-similarity",
    ("embedding", "images"): "image-feature-extraction",
    ("embedding", "vectors"): "feature-extraction",
}


def _metadata(record: Mapping[str, Any], public: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The card's YAML; data and base model are named only where they are of the hub."""
    from huggingface_hub import EvalResult, ModelCardData

    settings, results = record["settings"], public["results"]
    task = TASKS[about["output"], about["reads"]]
    data = [part for part in str(settings.get("data") or "").split(",") if _of_hub(part)]
    tested = [
        EvalResult(
            task_type=task,
            dataset_type=data[0] if data else "other",
            dataset_name=str(about["data"]),
            dataset_split=public["settings"].get("test"),
            metric_type="accuracy",
            metric_name="test accuracy (%)",
            metric_value=results["accuracy"],
        )
    ]
    measured = results.get("accuracy") is not None
    return ModelCardData(
        model_name=str(about["name"]),
        library_name="tuition",
        pipeline_tag=task,
        tags=["knowledge-distillation", "tuition"],
        datasets=data or None,
        base_model=_base_model(settings, about["name"]),
        metrics=["accuracy"] if measured else None,
        eval_results=tested if measured else None,
    ).to_yaml()


def _base_model(settings: Mapping[str, Any], name: str) -> str | None:
    """The model of the hub whose weights the student began with."""
    kind, _, rest = name.partition(":")
    if kind == "timm" and settings.get("pretrained"):
        return f"timm/{rest}"
    begins = kind == "transformers" and "pretrained" in settings and settings["pretrained"] is not False
    return rest if begins and _of_hub(rest) else None


def _of_hub(name: str) -> bool:
    """Whether a name is that of a repository, and not of something here."""
    return name.count("/") == 1 and escape.public(name) == name and ":" not in name and not os.path.exists(name)
