"""The command line. Heavy imports stand in the commands that need them, so that `tuition --help` is instant."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer import Argument, Option

from tuition.errors import UserError

if TYPE_CHECKING:
    from tuition.data import Accounts
    from tuition.training import Run
    from tuition.training.settings import Settings

app = typer.Typer(
    help="Distil an expensive teacher into a small student, paying for as few teacher calls as possible.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path | None, Option("--config", help="YAML file of settings; options given here go before it.")]
Sets = Annotated[
    list[str] | None, Option("--set", metavar="NAME=VALUE", help="Any other setting, such as --set learning_rate=0.1.")
]
Data = Annotated[str | None, Option(help="digits, a folder (parquet or images), or a name on the hub.")]
Seed = Annotated[int | None, Option(help="Seed of every random draw.")]
Epochs = Annotated[int | None, Option(help="Epochs of training.")]
Teacher = Annotated[str | None, Option(help="Folder made by `tuition teach`, or package.module:factory.")]
Calls = Annotated[int | None, Option(help="Inputs of the transfer set, each one teacher call.")]
Store = Annotated[str | None, Option(help="Where paid answers are kept: an SQLite file or a database URL.")]
Budget = Annotated[int | None, Option(help="Most calls ever paid for this teacher in this store.")]
Cost = Annotated[float | None, Option("--cost-per-call", help="Price of one call, in any currency.")]


@app.command()
def demo(
    out: Annotated[Path, Option(help="Folder for the results.")] = Path("demo"),
    workers: Annotated[int | None, Option(min=1, help="Processes at once; by default one a core.")] = None,
) -> None:
    """Distil a small net for handwritten digits in two minutes: five methods at 20 to 320 teacher calls."""
    from tuition.studies import demo as study

    with _progress("students") as advance:
        summary = study.run(out, workers=workers, progress=advance)
    methods = list(dict.fromkeys(row["method"] for row in summary["results"]))
    budgets = sorted({row["calls"] for row in summary["results"]})
    cells = {(row["method"], row["calls"]): row for row in summary["results"]}
    table = _table(
        f"Test accuracy (%) by teacher calls, mean ± std of {study.SEEDS} seeds", "method", *map(str, budgets)
    )
    for method in methods:
        row = [cells[method, calls] for calls in budgets]
        table.add_row(method, *(f"{c['mean']:.1f} ±{c['std']:.1f}" for c in row))
    _print(table)
    _print_accounts(summary["accounts"])
    say(f"The teacher's own accuracy is {summary['teacher_accuracy']:.1f} %. It took {summary['seconds']:.0f} s.")
    say(f"Figure: {out / 'accuracy.png'}. Results: {out / 'summary.json'}.")


@app.command()
def teach(
    out: Annotated[Path, Option(help="Folder for the teacher.")],
    config: Config = None,
    data: Data = None,
    model: Annotated[str | None, Option(help="Architecture (see `tuition models`).")] = None,
    examples: Annotated[int | None, Option(help="Train on so many examples only.")] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    sets: Sets = None,
) -> None:
    """Train a teacher on labels by plain cross-entropy."""
    from tuition.studies import job

    given = {"data": data, "model": model, "examples": examples, "epochs": epochs, "seed": seed}
    settings = _settings(job.TeachSettings, config, given, sets)
    with _training() as progress:
        run = job.train_teacher(settings, out, progress)
    _report(run, f"Teacher {settings.model} of {settings.data}")


@app.command()
def ask(
    config: Config = None,
    data: Data = None,
    teacher: Teacher = None,
    calls: Calls = None,
    seed: Seed = None,
    store: Store = None,
    budget: Budget = None,
    select: Annotated[str | None, Option(help="random, stratified, k-centre or medoids.")] = None,
    cost_per_call: Cost = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what it would cost, and ask nothing.")] = False,
    sets: Sets = None,
) -> None:
    """Ask a teacher about inputs of a data set, and keep the answers."""
    from tuition.studies import job

    given: dict[str, Any] = {"data": data, "teacher": teacher, "calls": calls, "seed": seed, "store": store}
    given |= {"budget": budget, "select": select, "cost_per_call": cost_per_call}
    settings = _settings(job.AskSettings, config, given, sets)
    if dry_run:
        _print_plan(job.plan(settings))
        return
    with _progress("calls") as advance:
        transfer, _ = job.ask(settings, job.the_teacher(settings), advance)
    say(f"{len(transfer)} answers of {transfer.teacher} are in {settings.store}.")
    _print_accounts(transfer.accounts, settings.cost_per_call)


@app.command()
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
    sets: Sets = None,
) -> None:
    """Ask a teacher, train a student from its answers, evaluate it and write it down."""
    from tuition.studies import job

    given: dict[str, Any] = {"data": data, "teacher": teacher, "student": student, "method": method, "calls": calls}
    given |= {"seed": seed, "store": store, "budget": budget, "epochs": epochs, "cost_per_call": cost_per_call}
    settings = _settings(job.DistillSettings, config, given, sets)
    if settings.teacher is None:
        name, folder = job.STAND_IN, job.stand_in_folder(settings)
        say(f"No teacher is named, so a quick stand-in serves: {name}, {job.STAND_IN_EPOCHS} epochs, kept in {folder}.")
        with _training() as progress:
            settings = job.with_stand_in(settings, progress)
    if out is None:
        out = job.usual_folder(settings)
    known = job.preflight(settings, out)
    with _progress("calls") as advance:
        transfer, validation = job.ask(settings, known, advance)
    megabytes = job.maps_megabytes(settings, known, transfer)
    if megabytes:
        say(f"The teacher's feature maps, recomputed without calls, take {megabytes:,.1f} MB.")
    transfer = job.complete(settings, known, transfer)
    with _training() as progress:
        run = job.train_student(settings, transfer, validation, out, progress)
    _report(run, f"Student {settings.student} of {settings.data} by {settings.method}", settings.cost_per_call)


@app.command()
def predict(
    run: Annotated[Path, Argument(help="Folder of a finished run.")],
    inputs: Annotated[str, Argument(help="An image, a folder of images, or a data set.")],
    split: Annotated[str, Option(help="Split of a data set.")] = "test",
    size: Annotated[int | None, Option(min=8, help="Squash pictures to so many pixels a side.")] = None,
    out: Annotated[Path | None, Option(help="CSV file; by default the terminal.")] = None,
) -> None:
    """Predict classes with a finished student, as CSV: input, class, confidence."""
    import csv

    from tuition import load
    from tuition.studies import job

    student = load(run)
    names, pool = job.inputs_of(inputs, split, size, student)
    confidence, classes = student.probabilities(pool).max(dim=1)
    with contextlib.ExitStack() as stack:
        file = sys.stdout if out is None else stack.enter_context(out.open("w", newline=""))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["input", "class", "confidence"])
        for name, index, share in zip(names, classes.tolist(), confidence.tolist(), strict=True):
            writer.writerow([name, student.class_names[index] if student.class_names else index, f"{share:.4f}"])


@app.command()
def evaluate(
    run: Annotated[Path, Argument(help="Folder of a finished run.")],
    data: Annotated[str, Option(help="digits, a folder (parquet or images), or a name on the hub.")],
    split: Annotated[str, Option(help="Split to evaluate on.")] = "test",
    per_class: Annotated[bool, Option("--per-class", help="Print a row for each class.")] = False,
    confusion: Annotated[Path | None, Option(help="Write the confusion matrix to this CSV file.")] = None,
) -> None:
    """Evaluate a finished student on labelled data."""
    from tuition import load
    from tuition.studies import job
    from tuition.training import evaluation, files

    student, pool = load(run), job.load_data(data, split)
    if pool.labels is None:
        raise UserError(f"evaluation needs labels; {data} has none.")
    logits = student.logits(pool)
    found = evaluation.evaluate(logits, pool.labels)
    table = _table(f"{run} on {data}, {split}", "", "")
    table.add_row("accuracy", f"{found.accuracy:.2f} %")
    table.add_row("top-5", f"{found.top5:.2f} %")
    table.add_row("calibration error", f"{found.calibration_error:.2f} %")
    table.add_row("inputs", f"{found.count:,}")
    _print(table)
    names = list(student.class_names or map(str, range(logits.shape[1])))
    counts = evaluation.confusion(logits.argmax(dim=1), pool.labels, logits.shape[1])
    if per_class:
        table = _table("By class", "class", "inputs", "recall (%)", "precision (%)")
        for row in evaluation.per_class(counts):
            table.add_row(names[row.index], f"{row.count:,}", _number(row.recall), _number(row.precision))
        _print(table)
    if confusion is not None:
        rows = [
            {"label": name, **dict(zip(names, row, strict=True))}
            for name, row in zip(names, counts.tolist(), strict=True)
        ]
        files.write_rows(confusion, rows)
        say(f"Rows are labels, columns predictions: {confusion}.")


@app.command()
def export(
    run: Annotated[Path, Argument(help="Folder of a finished run.")],
    out: Annotated[Path, Argument(help="ONNX file.")],
) -> None:
    """Export a finished student to ONNX, preprocessing included."""
    from tuition import load

    say(f"Wrote {load(run).export(out)}.")


@app.command()
def models(
    name: Annotated[str | None, Argument(help="A model to take apart.")] = None,
    classes: Annotated[int, Option(min=1)] = 100,
    channels: Annotated[int, Option(min=1)] = 3,
    size: Annotated[int, Option(min=8, help="Side of the input in pixels.")] = 32,
) -> None:
    """List the known models, or one model's modules with their paths and output shapes."""
    from tuition import models as zoo

    if name is None:
        table = _table("Models", "name", "")
        for pattern, what in zoo.available().items():
            table.add_row(pattern, what)
        _print(table)
        return
    model = zoo.create(name, num_classes=classes, in_channels=channels)
    shape = (channels,) if name.startswith("mlp_") else (channels, size, size)
    table = _table(f"{name}: {zoo.num_parameters(model):,} parameters", "path", "module", "output", "parameters")
    for layer in zoo.describe(model, shape):
        table.add_row(layer.path, layer.type, "x".join(map(str, layer.shape or ())), f"{layer.parameters:,}")
    _print(table)


@app.command()
def methods(
    markdown: Annotated[bool, Option("--markdown", help="Print the README's table.")] = False,
) -> None:
    """List the methods with their settings and defaults."""
    from tuition.training import methods as known

    if markdown:
        typer.echo(known.markdown())
        return

    table = _table("Methods", "name", "what it is", "settings")
    for name in known.METHODS:
        settings = ", ".join(f"{k}={v}" for k, v in known.settings_of(name).items())
        table.add_row(name, known.summary(name), settings)
    _print(table)


@app.command()
def data(
    name: Annotated[str, Argument(help="digits, a folder (parquet or images), or a name on the hub.")],
    split: Annotated[str, Option()] = "train",
    sheet: Annotated[Path | None, Option(help="Write a contact sheet to this PNG file.")] = None,
) -> None:
    """Count a data set and, with --sheet, look at it."""
    from tuition import data as sources

    pool = sources.load(name, split=split)
    say(repr(pool))
    distinct = len(set(pool.digests))
    if distinct < len(pool):
        say(f"{len(pool) - distinct} inputs repeat another one; equal inputs are one teacher call.")
    if sheet is not None:
        sources.contact_sheet(pool, sheet)
        say(f"Contact sheet: {sheet}.")


# -- printing ----------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line to standard error, where progress goes too: standard output is for data."""
    typer.echo(text, err=True)


def _table(title: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=any(columns))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    Console().print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _report(run: Run, title: str, cost_per_call: float | None = None) -> None:
    """The closing table of a run."""
    table = _table(title, "", "")
    for name, value in (
        ("test accuracy, best validation", run.accuracy),
        ("test accuracy, last epoch", run.accuracy_last),
        ("test top-5", run.top5),
        ("calibration error", run.calibration_error),
        (f"validation, best (epoch {run.best_epoch})", run.validation),
        ("agreement with the teacher", run.agreement),
    ):
        if value is not None:
            table.add_row(name, f"{value:.2f} %")
    table.add_row("images seen", f"{run.images_seen:,}")
    table.add_row("seconds of training", f"{run.seconds:,.1f}")
    if run.agreement is not None:
        for name, count in run.accounts.as_dict().items():
            table.add_row(f"teacher calls {name}", f"{count:,}")
        if cost_per_call is not None:
            table.add_row("cost", f"{run.accounts.paid * cost_per_call:,.2f}")
    _print(table)
    say(f"Files are in {run.directory}.")


def _print_accounts(accounts: Accounts | Mapping[str, int], cost_per_call: float | None = None) -> None:
    counts = accounts if isinstance(accounts, Mapping) else accounts.as_dict()
    line = ", ".join(f"{counts[name]:,} {name}" for name in ("paid", "served", "failed", "unknown"))
    cost = "" if cost_per_call is None else f", cost {counts['paid'] * cost_per_call:,.2f}"
    say(f"Teacher calls: {line}{cost}.")


def _print_plan(plan: Any) -> None:
    table = _table("Before asking", "", "")
    for name, value in plan.rows():
        table.add_row(name, value)
    _print(table)


@contextlib.contextmanager
def _progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and remaining time; called with (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None, rate="")

        def advance(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate="" if speed is None else f"{speed:,.1f}/s")

        yield advance


@contextlib.contextmanager
def _training() -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    with _progress("epochs") as advance:
        yield lambda done, total, figures: advance(done, total)


# -- settings ----------------------------------------------------------------------------------------------------------

S = TypeVar("S", bound="Settings")


def _settings(kind: type[S], config: Path | None, given: Mapping[str, Any], sets: list[str] | None) -> S:
    """Settings from a YAML file, then --set, then options, the later going before the earlier."""
    import yaml

    values = {} if config is None else kind.read(config)
    for pair in sets or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, not {pair!r}; write for example --set learning_rate=0.1.")
        values[name] = yaml.safe_load(value)
    return kind.of(values | {name: value for name, value in given.items() if value is not None})


# All that can be wrong with a command line; newer typers carry a click of their own.
UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """Run the command line: what the user can mend is one sentence and exit code 2."""
    sys.path.insert(0, "")  # package.module:factory is found in the folder where the user stands
    try:
        if app(standalone_mode=False) == 130:  # newer typers turn Ctrl-C into this
            raise KeyboardInterrupt
    except UsageError as error:
        say(_sentence(error))
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        say("Stopped. Give the same command again to go on from here.")
        sys.exit(130)
    except UserError as error:
        say(f"Error: {error}")
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _sentence(error: Any) -> str:
    """What is wrong with a command line; the help, where nothing was given."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error.format_message()
    return f"Error: {error.format_message().rstrip('.')}; see `{error.ctx.command_path} --help`."


if __name__ == "__main__":
    main()
