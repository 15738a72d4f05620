"""Commands that train: teach, distill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from tuition.cli.options import (
    Budget,
    Calls,
    Config,
    Cost,
    Data,
    Epochs,
    Labels,
    Pictures,
    Seed,
    Sets,
    Store,
    Teacher,
    Texts,
    TokenCost,
    TrustCode,
    settings_of,
)
from tuition.cli.output import show
from tuition.cli.tables import print_run
from tuition.errors import UserError


def teach(
    out: Annotated[Path, Option(help="Folder for the teacher.")],
    config: Config = None,
    data: Data = None,
    model: Annotated[str | None, Option(help="Architecture (see `tuition models`).")] = None,
    examples: Annotated[int | None, Option(help="Train on so many examples only.")] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Train a teacher on labels by plain cross-entropy."""
    from tuition.cli.watch import Shown
    from tuition.pipeline.settings import TeachSettings
    from tuition.pipeline.teach import teach as run_teach

    given: dict[str, Any] = {"data": data, "model": model, "examples": examples, "epochs": epochs, "seed": seed}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    settings = settings_of(TeachSettings, config, given, sets, trust_code=trust_code)
    run = run_teach(settings, out, Shown(settings))
    print_run(run, f"Teacher {settings.model} of {settings.data.data}")


def import_teacher(
    file: Annotated[Path, Argument(help="A checkpoint in RepDistiller's layout.")],
    model: Annotated[str, Option(help="Its architecture, such as wrn_40_2 (see `tuition models`).")],
    out: Annotated[Path, Option(help="Folder for the teacher.")],
    size: Annotated[int, Option(min=8, help="Side of the images it was trained on.")] = 32,
    mean: Annotated[str | None, Option(help="Mean of each channel, such as .5,.5,.5; by default CIFAR-100's.")] = None,
    std: Annotated[str | None, Option(help="Standard deviation of each channel; by default CIFAR-100's.")] = None,
    class_names: Annotated[Path | None, Option(help="File of class names, one a line, in the order of logits.")] = None,
) -> None:
    """Make a teacher's folder from published weights: wrn, resnet or vgg of RepDistiller."""
    from tuition.models.repdistiller import MEAN, STD
    from tuition.pipeline import import_teacher as importing

    names = None if class_names is None else importing.read_names(class_names)
    channels = (MEAN if mean is None else numbers("mean", mean), STD if std is None else numbers("std", std))
    student = importing.import_teacher(
        file, model, out, size=size, mean=channels[0], std=channels[1], class_names=names
    )
    classes = student.card()["model"]["num_classes"]
    show(f"{out} holds {model} with {classes} classes; use it as --teacher {out}")


def numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--{option} takes numbers such as 0.5,0.5,0.5, not {text!r}; correct it.") from None


def distill(
    out: Annotated[Path | None, Option(help="Folder for the run; by default named after it, in runs/.")] = None,
    config: Config = None,
    data: Data = None,
    teacher: Teacher = None,
    student: Annotated[str | None, Option(help="Architecture (see `tuition models`).")] = None,
    method: Annotated[str | None, Option(help="What it is trained by (see `tuition methods`).")] = None,
    calls: Calls = None,
    seed: Seed = None,
    store: Store = None,
    budget: Budget = None,
    epochs: Epochs = None,
    cost_per_call: Cost = None,
    cost_per_million_tokens: TokenCost = None,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Ask a teacher, train a student from its answers, evaluate it and write it down.

    `torchrun --nproc-per-node 2 -m tuition distill ...` shares the training between two processes.
    """
    from tuition.cli.watch import Shown
    from tuition.pipeline import job
    from tuition.pipeline.settings import DistillSettings, default_folder

    given: dict[str, Any] = {"data": data, "teacher": teacher, "student": student, "method": method, "calls": calls}
    given |= {"seed": seed, "store": store, "budget": budget, "epochs": epochs, "cost_per_call": cost_per_call}
    given |= {"cost_per_million_tokens": cost_per_million_tokens}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    settings = settings_of(DistillSettings, config, given, sets, trust_code=trust_code)
    run = job.run(settings, default_folder(settings) if out is None else out, watch=Shown(settings))
    print_run(
        run,
        f"Student {settings.student} of {settings.data.data} by {settings.method}",
        priced=settings.ask.price is not None,
    )
