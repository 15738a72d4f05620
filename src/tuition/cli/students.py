"""Commands that train: teach, distill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from tuition.cli.asking import ASKED, COLUMNS, print_plan
from tuition.cli.options import DryRun, Yes
from tuition.cli.printer import Fact, Printer
from tuition.cli.signatures import takes
from tuition.cli.tables import print_run
from tuition.errors import UserError
from tuition.pipeline.settings import DistillSettings, TeachSettings

if TYPE_CHECKING:
    from tuition.pipeline.sources import Sources

TRAINED = "epochs learning_rate batch_size"


@takes(TeachSettings, f"data validation test model examples size seed {TRAINED} {COLUMNS}")
def teach(
    printer: Printer,
    settings: TeachSettings,
    out: Annotated[Path, Option(help="Folder for the teacher.", rich_help_panel="Output")],
) -> None:
    """Train a teacher on labels by plain cross-entropy.

    Example: tuition teach --data digits --model cnn_32 --epochs 20 --out teacher
    """
    from tuition.cli.watch import Shown
    from tuition.pipeline.teach import teach as train_teacher

    run = train_teacher(settings, out, Shown(printer))
    print_run(printer, run, f"Teacher {settings.model} of {settings.data.data}")


def import_teacher(
    printer: Printer,
    file: Annotated[Path, Argument(help="A checkpoint in RepDistiller's layout.")],
    model: Annotated[str, Option(help="Its architecture, such as wrn_40_2 (see `tuition models`).")],
    out: Annotated[Path, Option(help="Folder for the teacher.", rich_help_panel="Output")],
    size: Annotated[int, Option(min=8, help="Side of the images it was trained on.")] = 32,
    mean: Annotated[str | None, Option(help="Mean of each channel, such as .5,.5,.5; by default CIFAR-100's.")] = None,
    std: Annotated[str | None, Option(help="Standard deviation of each channel; by default CIFAR-100's.")] = None,
    class_names: Annotated[Path | None, Option(help="File of class names, one a line, in the order of logits.")] = None,
) -> None:
    """Make a teacher's folder from published weights: wrn, resnet or vgg of RepDistiller.

    Example: tuition import-teacher ckpt.pth --model wrn_40_2 --out teacher
    """
    from tuition.data.combine import read_names
    from tuition.models.repdistiller import MEAN, STD
    from tuition.pipeline import import_teacher as importing

    names = None if class_names is None else read_names(class_names)
    channels = (MEAN if mean is None else numbers("mean", mean), STD if std is None else numbers("std", std))
    student = importing.import_teacher(
        file, model, out, size=size, mean=channels[0], std=channels[1], class_names=names
    )
    classes = student.card()["model"]["num_classes"]
    printer.record(directory=out, model=model, classes=classes)
    printer.show(f"{out} holds {model} with {classes} classes; use it as --teacher {out}")


def numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--{option} takes numbers such as 0.5,0.5,0.5, not {text!r}; correct it.") from None


@takes(DistillSettings, f"{ASKED} test student weights method rounds until unasked {TRAINED} {COLUMNS}")
def distill(
    printer: Printer,
    settings: DistillSettings,
    out: Annotated[
        Path | None, Option(help="Folder for the run; by default named after it, in runs/.", rich_help_panel="Output")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Ask a teacher, train a student on its answers, evaluate it and write it down.

    `torchrun --nproc-per-node 2 -m tuition distill ...` shares the training between two processes.

    Example: tuition distill --data digits --teacher teacher --calls 320 --student cnn_8
    """
    from tuition.cli.watch import ShownDistillation
    from tuition.pipeline import job
    from tuition.pipeline.rounds import resolved
    from tuition.pipeline.settings import default_folder
    from tuition.pipeline.sources import Sources

    out, sources = default_folder(settings) if out is None else out, Sources()
    settings = resolved(settings, sources)
    if dry_run:
        print_distillation(printer, settings, out, sources)
        return
    run = job.run(settings, out, sources, ShownDistillation(printer, settings, sources, yes=yes))
    title = f"Student {settings.student} of {settings.data.data} by {settings.method}"
    print_run(printer, run, title, priced=settings.ask.price is not None)


def print_distillation(printer: Printer, settings: DistillSettings, out: Path, sources: Sources) -> None:
    """Check all that can be checked without a call, and print what would be asked and trained."""
    from tuition.pipeline.checks import check_distill
    from tuition.pipeline.plan import plan
    from tuition.pipeline.question import validation_inputs
    from tuition.pipeline.rounds import sizes
    from tuition.pipeline.teach import DIGITS_MODEL
    from tuition.training.files import ROUNDS

    ask, train, estimate = settings.ask, settings.train, None
    if ask.teacher is None and settings.data.data == "digits":
        printer.say(f"No teacher is named, so a small one for the digits, {DIGITS_MODEL}, would be trained first.")
    else:
        check_distill(settings, out, sources)
        estimate = plan(settings, sources)
        print_plan(printer, estimate)
    values = ", ".join(f"{name}={value}" for name, value in settings.options.items())
    other = sources.validation_pool(settings.data)
    validation = validation_inputs(settings, sources) if other is None else len(other)
    rounds = sizes(settings) if settings.in_rounds else [ask.calls]
    steps = train.epochs * sum(-(-count // train.batch_size) for count in rounds)
    asked = ", ".join(f"{count:,}" for count in rounds)
    facts = [
        Fact("training.student", "student", settings.student),
        Fact("training.method", "method", settings.method, f"{settings.method} {values}".rstrip()),
        Fact("training.calls", "inputs to train on", ask.calls),
        *([Fact("training.rounds", "of which up to the end of each round", rounds, asked)] if len(rounds) > 1 else []),
        Fact("training.validation", "inputs to choose the epoch by", validation),
        Fact("training.epochs", "epochs, at most", train.epochs),
        Fact("training.steps", "steps, at most", steps),
        Fact("training.learning_rate", "learning rate", train.learning_rate, f"{train.learning_rate:g}"),
        Fact("training.batch_size", "batch size", train.batch_size),
        Fact("training.device", "device", train.device),
        Fact("training.out", "folder", out, str(out)),
    ]
    printer.facts("Then training", facts)
    if estimate is not None and not (settings.in_rounds and (out / ROUNDS).exists()):  # a stopped job resumes
        estimate.check_budget()
