"""The command line. Heavy imports stand in the commands that need them, so that `tuition --help` is instant."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer import Argument, Option

from tuition import crash, disk, escape, stopping
from tuition.cli import output
from tuition.cli.output import new_table, say, show, show_table
from tuition.errors import Notice, UserError

if TYPE_CHECKING:
    from tuition.data import Accounts, Bill, Pool, TransferSet
    from tuition.pipeline.job import Columns
    from tuition.store import ResponseStore
    from tuition.training import Run
    from tuition.training.settings import Settings

app = typer.Typer(
    help="Distil an expensive teacher into a small student, paying for as few teacher calls as possible.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path | None, Option("--config", help="YAML file of settings; options given here override it.")]
Sets = Annotated[
    list[str] | None,
    Option("--set", metavar="NAME=VALUE", help="Any other setting, such as learning_rate=0.1, options.anchor=0.2."),
]
Data = Annotated[str | None, Option(help="digits, a folder (parquet, images, text), or a name on the hub.")]
Size = Annotated[int | None, Option(min=8, help="Squash pictures to so many pixels a side.")]
Texts = Annotated[str | None, Option("--text-column", help="Column of texts; several are joined: title,body.")]
Labels = Annotated[str | None, Option("--label-column", help="Column of labels.")]
Pictures = Annotated[str | None, Option("--image-column", help="Column of images.")]
Seed = Annotated[int | None, Option(help="Seed of every random draw.")]
Epochs = Annotated[int | None, Option(help="Epochs of training.")]
Teacher = Annotated[
    str | None,
    Option(
        help="Folder made by `tuition teach`, timm:NAME, transformers:NAME_OR_FOLDER, onnx:FILE, "
        "openai:MODEL, v2:URL, or package.module:factory."
    ),
]
Calls = Annotated[int | None, Option(help="Inputs of the transfer set, each one teacher call.")]
Store = Annotated[str | None, Option(help="Where paid answers are kept: an SQLite file or a database URL.")]
Budget = Annotated[int | None, Option(help="Most calls ever paid for this teacher in this store.")]
TrustCode = Annotated[
    bool,
    Option("--trust-code", help="Run code that a run's folder or a file of settings names: package.module:factory."),
]
Cost = Annotated[str | None, Option("--cost-per-call", metavar="NUMBER", help="Price of one call, in any currency.")]
TokenCost = Annotated[
    str | None,
    Option("--cost-per-million-tokens", metavar="IN,OUT", help="Price of tokens that the server counts: 0.15,0.60."),
]


class Executor(StrEnum):
    local = "local"
    ray = "ray"


Spread = Annotated[
    Executor,
    Option("--executor", help="local: this machine. ray: the Ray cluster at RAY_ADDRESS, or that of this machine."),
]


def _version(wanted: bool) -> None:
    if wanted:
        from tuition import __version__

        show(f"tuition {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    traced: Annotated[bool, Option("--traceback", help="Show the traceback of an error that is not expected.")] = False,
) -> None:
    if _processes() > 1 and context.invoked_subcommand not in ("teach", "distill"):
        raise UserError(f"tuition {context.invoked_subcommand} runs in one process; start it without torchrun.")


@app.command()
def demo(
    out: Annotated[Path, Option(help="Folder for the results.")] = Path("demo"),
    workers: Annotated[int | None, Option(min=1, help="Processes at once; by default one a core.")] = None,
) -> None:
    """Distil a small net for handwritten digits in two minutes: five methods at 20 to 320 teacher calls."""
    from tuition.studies import demo as study

    with output.progress("students") as advance:
        summary = study.run(out, workers=workers, progress=advance)
    methods = list(dict.fromkeys(row["method"] for row in summary["results"]))
    budgets = sorted({row["calls"] for row in summary["results"]})
    cells = {(row["method"], row["calls"]): row for row in summary["results"]}
    table = new_table(
        f"Test accuracy (%) by teacher calls, mean ± std of {study.SEEDS} seeds", "method", *map(str, budgets)
    )
    for method in methods:
        row = [cells[method, calls] for calls in budgets]
        table.add_row(method, *(f"{c['mean']:.1f} ±{c['std']:.1f}" for c in row))
    show_table(table)
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
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Train a teacher on labels by plain cross-entropy."""
    from tuition.pipeline import job

    given: dict[str, Any] = {"data": data, "model": model, "examples": examples, "epochs": epochs, "seed": seed}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    given["trust_code"] = trust_code or None
    settings = _settings(job.TeachSettings, config, given, sets)
    with output.training() as progress:
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
    cost_per_million_tokens: TokenCost = None,
    executor: Spread = Executor.local,
    workers: Annotated[int | None, Option(min=1, help="With ray: processes at a time; by default one a core.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what it would cost, and ask nothing.")] = False,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Ask a teacher about inputs of a data set, and keep the answers."""
    from tuition.pipeline import job
    from tuition.studies import cluster_ask

    given: dict[str, Any] = {"data": data, "teacher": teacher, "calls": calls, "seed": seed, "store": store}
    given |= {"budget": budget, "select": select, "cost_per_call": cost_per_call}
    given |= {"cost_per_million_tokens": cost_per_million_tokens}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    given["trust_code"] = trust_code or None
    settings = _settings(job.AskSettings, config, given, sets)
    if dry_run:
        _print_plan(job.plan(settings))
        return
    known = job.the_teacher(settings)
    if executor == Executor.ray:
        with output.progress("calls") as advance:
            whole = cluster_ask.ask(settings, known, workers=workers, progress=advance)
        accounts = whole.accounts
        say(f"{accounts.paid - accounts.unknown + accounts.served} answers of {known.name} are in the store.")
        _print_accounts(accounts, whole.bill, priced=settings.price is not None)
        return
    with output.progress("calls") as advance:
        transfer, validation = job.ask(settings, known, advance)
    say(f"{len(transfer)} answers of {transfer.teacher} are in {settings.store}.")
    _say_refused(transfer, validation, settings.store)
    _say_further(validation)
    if transfer.teacher_accuracy is not None:
        say(f"The teacher is right for {transfer.teacher_accuracy:.2f} % of {len(transfer):,} labelled inputs.")
    _print_accounts(transfer.accounts, transfer.bill, priced=settings.price is not None)


@app.command()
def check(
    teacher: Annotated[str, Argument(help="As for --teacher of `tuition ask`.")],
    data: Data = None,
    calls: Annotated[int, Option(min=1, help="Random inputs to try it on, each one teacher call.")] = 16,
    seed: Seed = None,
    store: Store = None,
    budget: Budget = None,
    cost_per_call: Cost = None,
    cost_per_million_tokens: TokenCost = None,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Try a teacher on a few inputs: what it takes and gives, how fast it is, and how often it is right."""
    from tuition.pipeline import check_teacher, job

    given: dict[str, Any] = {"data": data, "teacher": teacher, "calls": calls, "seed": seed, "store": store}
    given |= {"budget": budget, "cost_per_call": cost_per_call, "cost_per_million_tokens": cost_per_million_tokens}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    given["trust_code"] = trust_code or None
    settings = _settings(job.AskSettings, None, given, sets)
    found = check_teacher.check(settings)
    table = new_table(f"{found.transfer.teacher} on {len(found.transfer):,} inputs of {settings.data}", "", "")
    for what, figure in found.rows():
        table.add_row(what, figure)
    show_table(table)
    say(found.verdict)
    _print_accounts(found.transfer.accounts, found.transfer.bill, priced=settings.price is not None)


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
    from tuition.pipeline import job
    from tuition.training import parallel

    given: dict[str, Any] = {"data": data, "teacher": teacher, "student": student, "method": method, "calls": calls}
    given |= {"seed": seed, "store": store, "budget": budget, "epochs": epochs, "cost_per_call": cost_per_call}
    given |= {"cost_per_million_tokens": cost_per_million_tokens}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    given["trust_code"] = trust_code or None
    settings = _settings(job.DistillSettings, config, given, sets)
    if settings.teacher is None:
        name, folder = job.STAND_IN, job.stand_in_folder(settings)
        say(f"No teacher is named, so a quick stand-in serves: {name}, {job.STAND_IN_EPOCHS} epochs, kept in {folder}.")
        with output.training() as progress:
            settings = job.with_stand_in(settings, progress)
    out = job.usual_folder(settings) if out is None else out

    with contextlib.ExitStack() as held:  # the folder, from before a call is paid

        def asked() -> tuple[TransferSet, Pool | TransferSet]:
            known = job.preflight(settings, out)
            held.enter_context(disk.hold(out))
            with output.progress("calls") as advance:
                transfer, validation = job.ask(settings, known, advance)
            _say_refused(transfer, validation, settings.store)
            _say_further(validation)
            megabytes = job.maps_megabytes(settings, known, transfer)
            if megabytes:
                say(f"The teacher's feature maps, recomputed without calls, take {megabytes:,.1f} MB.")
            return job.complete(settings, known, transfer), validation

        transfer, validation = parallel.first(asked)
        with output.training() as progress:
            run = job.train_student(settings, transfer, validation, out, progress)
        _report(
            run,
            f"Student {settings.student} of {settings.data} by {settings.method}",
            priced=settings.price is not None,
        )


@app.command()
def study(
    name: Annotated[str, Argument(help="A study of the paper, such as figure2-wrn or table1, or a YAML file.")],
    out: Annotated[Path, Option(help="Folder for the study; what it holds already is gone on with.")],
    fast: Annotated[bool, Option("--fast", help="A cosine of fixed length, fewer budgets and seeds.")] = False,
    smoke: Annotated[bool, Option("--smoke", help="Minutes on two cores, to see that it works.")] = False,
    data: Annotated[str | None, Option(help="digits (with its own pair and budgets), a folder, or a name.")] = None,
    teacher: Annotated[
        list[Path] | None, Option(help="Folder made by `tuition teach`, instead of training; give one for each.")
    ] = None,
    accounting: Annotated[str | None, Option(help="published, matched or both.")] = None,
    workers: Annotated[int | None, Option(min=1, help="Runs at a time; by default one a core.")] = None,
    executor: Spread = Executor.local,
    continue_from: Annotated[
        list[Path] | None, Option(help="Another study's folder; its runs are not repeated.")
    ] = None,
    retry: Annotated[bool, Option("--retry", help="Make failed runs again.")] = False,
    max_minutes: Annotated[
        float | None, Option(min=0, help="Stop in time; the same command goes on. Exit code 3.")
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what it would take, and do nothing.")] = False,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Run a grid of methods, budgets and seeds, resumably, and report on it.

    --set takes the place of an axis too, and a list makes one: --set seed=[0,1,2].
    """
    from tuition.studies import forecast, grid
    from tuition.studies import study as studies

    variants = [word for word, given in (("fast", fast), ("digits", data == "digits"), ("smoke", smoke)) if given]
    if "digits" not in grid.variants_of(name):
        variants = [word for word in variants if word != "digits"]
    changes = _pairs(sets) | ({} if data is None else {"data": data})
    if accounting is not None:
        changes["accounting"] = ["published", "matched"] if accounting == "both" else accounting
    if trust_code:
        changes["trust_code"] = True
    chosen = grid.read(name, variants, changes, trust_code=trust_code)
    shared: dict[str, Any] = {"teachers": teacher or [], "continue_from": continue_from or []}
    shared |= {"workers": workers, "retry": retry}
    if dry_run:
        _print_forecast(forecast.forecast(chosen, out, **shared))
        return
    minutes = math.inf if max_minutes is None else max_minutes
    with output.phases() as progress:
        found = studies.run(chosen, out, minutes=minutes, executor=executor, progress=progress, **shared)
    studies.note_command(out, sys.argv[1:])
    for record in found.failed:
        say(f"Failed: {record.method}, {record.calls} calls, seed {record.seed}: {record.error.splitlines()[-1]}")
    if found.failed:
        say(f"Runs that failed: {len(found.failed)}; --retry makes them again.")
    if found.left:
        say(f"Time is up: {found.done} runs are done, {found.left} or more are left. The same command goes on.")
        sys.exit(3)
    _print_report([out], out)
    if found.failed:
        sys.exit(1)


@app.command()
def report(
    folders: Annotated[list[Path], Argument(help="Folders of studies, with runs.csv.")],
    out: Annotated[Path, Option(help="Folder for figures, tables and report.html.")],
) -> None:
    """Rebuild figures, tables and the page from run records."""
    _print_report(folders, out)


@app.command()
def predict(
    run: Annotated[Path, Argument(help="Folder of a finished run.")],
    inputs: Annotated[str, Argument(help="An image, a folder of images, a file of texts, or a data set.")],
    split: Annotated[str, Option(help="Split of a data set.")] = "test",
    size: Size = None,
    text_column: Texts = None,
    image_column: Pictures = None,
    out: Annotated[Path | None, Option(help="CSV file; by default the terminal.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Predict classes with a finished student, as CSV: input, class, confidence."""
    from tuition import load
    from tuition.pipeline import job
    from tuition.training import files

    if out is not None:
        disk.replaceable(out)
    student = load(run, trust_code=trust_code)
    names, pool = job.inputs_of(inputs, split, size, student, _columns(text_column, None, image_column))
    confidence, classes = student.probabilities(pool).max(dim=1)
    rows = [
        {"input": name, "class": student.class_names[index] if student.class_names else index, "confidence": f"{p:.4f}"}
        for name, index, p in zip(names, classes.tolist(), confidence.tolist(), strict=True)
    ]
    if out is None:
        output.data(files.csv_text(rows))
    else:
        files.write_new_rows(out, rows)


@app.command()
def evaluate(
    run: Annotated[Path, Argument(help="Folder of a finished run.")],
    data: Annotated[str, Option(help="digits, a folder (parquet, images, text), or a name on the hub.")],
    split: Annotated[str, Option(help="Split to evaluate on.")] = "test",
    size: Size = None,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    per_class: Annotated[bool, Option("--per-class", help="Print a row for each class.")] = False,
    confusion: Annotated[Path | None, Option(help="Write the confusion matrix to this CSV file.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Evaluate a finished student on labelled data."""
    from tuition import load
    from tuition.pipeline import job
    from tuition.training import evaluation, files

    if confusion is not None:
        disk.replaceable(confusion)  # which is refused before anything is computed or printed
    student = load(run, trust_code=trust_code)
    pool = job.load_data(data, split, size, _columns(text_column, label_column, image_column))
    if pool.labels is None:
        raise UserError(f"evaluation needs labels; {data} has none.")
    labels = student.labels_of(pool)
    logits = student.logits(pool)
    found = evaluation.evaluate(logits, labels)
    names = list(student.class_names or map(str, range(logits.shape[1])))
    predicted, classes = logits.argmax(dim=1), logits.shape[1]
    if confusion is not None:
        counts = evaluation.confusion(predicted, labels, classes)
        rows = [
            {"label": name, **dict(zip(names, row, strict=True))}
            for name, row in zip(names, counts.tolist(), strict=True)
        ]
        files.write_new_rows(confusion, rows)
    table = new_table(f"{run} on {data}, {split}", "", "")
    table.add_row("accuracy", f"{found.accuracy:.2f} %")
    table.add_row("top-5", f"{found.top5:.2f} %")
    table.add_row("calibration error", f"{found.calibration_error:.2f} %")
    table.add_row("inputs", f"{found.count:,}")
    show_table(table)
    if per_class:
        table = new_table("By class", "class", "inputs", "recall (%)", "precision (%)")
        for row in evaluation.per_class(predicted, labels, classes):
            table.add_row(names[row.index], f"{row.count:,}", _number(row.recall), _number(row.precision))
        show_table(table)
    if confusion is not None:
        say(f"Rows are labels, columns predictions: {confusion}.")


@app.command()
def export(
    run: Annotated[Path, Argument(help="Folder of a finished run.")],
    out: Annotated[Path, Argument(help="ONNX file.")],
    trust_code: TrustCode = False,
) -> None:
    """Export a finished student to ONNX, preprocessing included."""
    from tuition import load

    say(f"Wrote {load(run, trust_code=trust_code).export(out)}.")


@app.command()
def models(
    name: Annotated[str | None, Argument(help="A model to take apart.")] = None,
    classes: Annotated[int, Option(min=1, max=10**6)] = 100,
    channels: Annotated[int, Option(min=1, max=10**6)] = 3,
    size: Annotated[int, Option(min=8, max=10**4, help="Side of the input in pixels.")] = 32,
) -> None:
    """List the known models, or one model's modules with their paths and output shapes."""
    from tuition import models as zoo

    if name is None:
        table = new_table("Models", "name", "what it is", text=2)
        for pattern, what in zoo.available().items():
            table.add_row(pattern, what)
        show_table(table)
        return
    model = zoo.create(name, num_classes=classes, in_channels=channels)
    shape: tuple[int, ...] = (channels,) if name.startswith("mlp_") else (channels, size, size)
    hashing = getattr(model, "hashing", None)
    if hashing is not None:
        shape = (hashing.length,)
    title = f"{name}: {zoo.num_parameters(model):,} parameters"
    table = new_table(title, "path", "module", "output", "parameters", text=3)
    for layer in zoo.describe(model, shape):
        table.add_row(layer.path, layer.type, "x".join(map(str, layer.shape or ())), f"{layer.parameters:,}")
    show_table(table)


@app.command()
def methods(
    name: Annotated[str | None, Argument(help="A method, for its settings.")] = None,
    markdown: Annotated[bool, Option("--markdown", help="Print the README's table.")] = False,
) -> None:
    """List the methods, or one method's settings with their defaults."""
    from tuition.training import methods as known

    if markdown:
        output.data(known.markdown() + "\n")
    elif name is None:
        table = new_table("Methods", "name", "what it is", text=2)
        for method, function in known.METHODS.items():
            fixed = ", ".join(f"{setting}={value}" for setting, value in getattr(function, "keywords", {}).items())
            table.add_row(method, known.summary(method) + (f" Here {fixed}." if fixed else ""))
        show_table(table)
        say("`tuition methods NAME` lists a method's settings.")
    else:
        show_table(f"{name}: {known.summary(name)}")
        table = new_table("Settings", "name", "default")
        for setting, default in known.settings_of(name).items():
            table.add_row(setting, "none" if default is None else str(default))
        show_table(table)


@app.command()
def data(
    name: Annotated[str, Argument(help="digits, a folder (parquet, images, text), or a name on the hub.")],
    split: Annotated[str, Option(help="Split to look at.")] = "train",
    size: Size = None,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    sheet: Annotated[Path | None, Option(help="Write a contact sheet to this PNG file.")] = None,
) -> None:
    """Count a data set and, with --sheet, look at it."""
    from tuition import data as sources

    chosen = {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    pool = sources.load(name, split=split, size=size, **{k: v for k, v in chosen.items() if v is not None})
    table = new_table(pool.name, "", "")
    table.add_row("inputs", f"{len(pool):,}")
    table.add_row("different ones, each a teacher call", f"{len(set(pool.digests)):,}")
    if isinstance(pool.inputs, list):
        words = sorted(len(text.split()) for text in pool.inputs)
        table.add_row("words, of the median text and the longest", f"{words[len(words) // 2]:,}, {words[-1]:,}")
    else:
        table.add_row("shape", " x ".join(map(str, pool.inputs.shape[1:])))
    table.add_row("classes", "no labels" if pool.labels is None else f"{pool.num_classes:,}")
    show_table(table)
    if sheet is not None:
        sources.contact_sheet(pool, sheet)
        say(f"Contact sheet: {sheet}.")


# -- stores ------------------------------------------------------------------------------------------------------------

stores = typer.Typer(no_args_is_help=True, help="Look after a store of answers: usage, verify, export, import, prune.")
app.add_typer(stores, name="store")

Where = Annotated[str, Argument(metavar="STORE", help="SQLite file or database URL.")]


def _store(url: str) -> ResponseStore:
    from tuition import ResponseStore
    from tuition.store import address

    if not address.exists(url):
        raise UserError(f"there is no store {url}; name the file that --store named when answers were asked for.")
    return ResponseStore(url)


@stores.command()
def usage(store: Where) -> None:
    """What a store holds of each teacher, and what it cost."""
    from tuition.store import usage
    from tuition.store.price import money

    found = usage(_store(store))
    tokens = ("tokens in", "tokens out") if any(held.bill.metered for held in found) else ()
    columns = ("teacher", "answers", "paid", "served", "failed", "unknown", "imported", *tokens, "cost", "MB")
    table = new_table(f"Answers in {store}", *columns)
    for held in found:
        counts = (held.responses, *held.accounts.as_dict().values(), held.imported)
        used = (held.bill.input_tokens, held.bill.output_tokens) if tokens else ()
        table.add_row(
            ", ".join(held.names),
            *(f"{n:,}" for n in (*counts, *used)),
            money(held.bill.cost),
            f"{held.bytes / 1e6:,.1f}",
        )
    show_table(table)


@stores.command()
def verify(
    store: Where,
    reask: Annotated[int, Option(min=0, help="Ask the teacher again about so many stored inputs, paid.")] = 0,
    teacher: Teacher = None,
    data: Data = None,
    budget: Budget = None,
    seed: Seed = None,
    cost_per_call: Cost = None,
    cost_per_million_tokens: TokenCost = None,
    trust_code: TrustCode = False,
) -> None:
    """Compare every answer with its checksum and its index; exit code 1 if something is damaged.

    With --reask K, --teacher, --data and --budget, K random inputs are asked about again, which shows a teacher that
    has changed silently.
    """
    from tuition import store as stores
    from tuition.pipeline import job

    opened = _store(store)
    found = stores.verify(opened)
    say(f"{found.whole:,} of {found.responses:,} answers are whole.")
    for problem in found.problems:
        say(problem)
    if reask:
        if teacher is None or data is None or budget is None:
            raise UserError("asking again takes --teacher, --data and --budget (the most calls ever paid); give all.")
        pool = job.load_data(data, "train")
        compared = stores.reask(
            opened,
            job.find_teacher(teacher, trust_code=trust_code),
            pool,
            count=reask,
            budget=budget,
            seed=seed or 0,
            cost_per_call=cost_per_call,
            cost_per_million_tokens=cost_per_million_tokens,
        )
        for name, difference in compared.difference.items():
            say(f"{name} of {compared.inputs:,} inputs asked again differ by at most {difference:.3g}.")
        priced = cost_per_call is not None or cost_per_million_tokens is not None
        _print_accounts(compared.accounts, compared.bill, priced=priced)
    if found.problems:
        raise typer.Exit(1)


@stores.command("export")
def export_store(
    store: Where,
    folder: Annotated[Path, Argument(help="A new folder, for safetensors and parquet files.")],
    teacher: Annotated[str | None, Option(help="Of this teacher only.")] = None,
) -> None:
    """Write the answers of a store to files that other programs read."""
    from tuition.store import export

    say(f"{export(_store(store), folder, teacher=teacher).responses:,} answers are in {folder}.")


@stores.command("import")
def import_store(store: Where, folder: Annotated[Path, Argument(help="What `tuition store export` wrote.")]) -> None:
    """Take over exported answers; they count as imported, not as paid."""
    from tuition import ResponseStore
    from tuition.store import import_
    from tuition.store.transport import check_export

    check_export(folder)
    moved = import_(ResponseStore(store), folder)
    say(f"{moved.responses:,} answers are new in {store}, {moved.known:,} were there.")


@stores.command()
def prune(
    store: Where,
    teacher: Annotated[str | None, Option(help="Drop all answers of this teacher; the accounts remain.")] = None,
    damaged: Annotated[bool, Option("--damaged", help="Drop answers that are damaged, to ask for them again.")] = False,
    yes: Annotated[bool, Option("--yes", help="Yes, drop what was paid for.")] = False,
) -> None:
    """Drop answers."""
    from tuition.store import mend, prune

    opened = _store(store)
    if (teacher is None) != damaged:
        raise UserError("say what to drop: either --teacher NAME or --damaged.")
    if teacher is None:
        say(f"{mend(opened):,} damaged answers were dropped.")
    elif not yes:
        paid = opened.accounts(teacher).paid
        raise UserError(f"this drops all answers of {teacher}, for which {paid:,} calls were paid; say --yes to do it.")
    else:
        say(f"{prune(opened, teacher):,} answers were dropped.")


# -- printing ----------------------------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _report(run: Run, title: str, *, priced: bool = False) -> None:
    """The closing table of a run."""
    table = new_table(title, "", "")
    for name, value in (
        ("test accuracy, best validation", run.accuracy),
        ("test accuracy, last epoch", run.accuracy_last),
        ("test top-5", run.top5),
        ("calibration error", run.calibration_error),
        (f"validation {_measure(run)}, best (epoch {run.best_epoch})", run.validation),
        ("agreement with the teacher on the transfer set", run.agreement),
    ):
        if value is not None:
            table.add_row(name, f"{value:.2f} %")
    if run.teacher_accuracy is not None:
        table.add_row(f"teacher's accuracy on {run.teacher_inputs:,} labels", f"{run.teacher_accuracy:.2f} %")
    table.add_row("images seen", f"{run.images_seen:,}")
    table.add_row("seconds of training", f"{run.seconds:,.1f}")
    if any(run.accounts.as_dict().values()):
        for name, count in run.accounts.as_dict().items():
            table.add_row(f"teacher calls {name}", f"{count:,}")
        for what, amount in _billed(run.bill, priced):
            table.add_row(what, amount)
    show_table(table)
    say(f"Files are in {run.directory}.")


def _measure(run: Run) -> str:
    """What validation measured: accuracy, or agreement."""
    return run.measured.get("validation", "accuracy").split()[0]


def _print_accounts(accounts: Accounts | Mapping[str, int], bill: Bill | None = None, *, priced: bool = False) -> None:
    counts = accounts if isinstance(accounts, Mapping) else accounts.as_dict()
    line = ", ".join(f"{counts[name]:,} {name}" for name in ("paid", "served", "failed", "unknown"))
    rest = "" if bill is None else "".join(f", {name} {value}" for name, value in _billed(bill, priced))
    say(f"Teacher calls: {line}{rest}.")


def _billed(bill: Bill, priced: bool) -> list[tuple[str, str]]:
    """What calls cost, where a price was set, and the tokens they used, where the server counted them."""
    from tuition.store.price import money

    found = [("cost", money(bill.cost))] if priced else []
    if bill.input_tokens or bill.output_tokens or bill.metered:
        found += [("tokens in", f"{bill.input_tokens:,}"), ("tokens out", f"{bill.output_tokens:,}")]
    return found


def _say_refused(transfer: TransferSet, validation: Pool | TransferSet, store: str) -> None:
    from tuition.data import TransferSet
    from tuition.store import refusals
    from tuition.store.address import parse

    if transfer.refused:
        further = len(validation) if isinstance(validation, TransferSet) else 0
        place = parse(store)
        path = Path(place.database or "") if place.get_backend_name() == "sqlite" else None
        asked = len(transfer) + further + len(transfer.refused)
        say(refusals.sentence(transfer.refused, asked, refusals.beside(path)))


def _say_further(validation: Pool | TransferSet) -> None:
    from tuition.data import TransferSet

    if isinstance(validation, TransferSet):
        say(f"There are no labels, so {len(validation)} further calls choose the best epoch, by agreement with them.")


def _print_plan(plan: Any) -> None:
    table = new_table("Before asking", "", "")
    for name, value in plan.rows():
        table.add_row(name, value)
    show_table(table)


def _print_forecast(ahead: Any) -> None:
    hours, minutes = divmod(math.ceil(ahead.seconds / 60), 60)
    table = new_table("Before the study", "", "")
    table.add_row("runs to make", f"{ahead.runs:,}")
    table.add_row("runs finished already", f"{ahead.known:,}")
    table.add_row("teachers to train first", ", ".join(ahead.teachers) or "none")
    table.add_row("new teacher calls", f"{ahead.new:,}")
    table.add_row("teacher calls paid so far, in the study's store", f"{ahead.paid:,}")
    table.add_row("time to train students, about (less where it stops early)", f"{hours:,} h {minutes} min")
    show_table(table)


def _print_report(folders: list[Path], out: Path) -> None:
    """Build the report; print mean and deviation by method and calls, and where to look."""
    from tuition.studies import records, statistics
    from tuition.studies import report as reports

    page = reports.build(folders, out)
    for section in records.sections(records.read(*folders)):
        show(escape.line(f"{section.title}: test accuracy (%), mean ± standard deviation over seeds, by teacher calls"))
        show(escape.line(section.conditions))
        table = new_table("", "method", *map(str, section.calls))
        for method, curve in section.curves.items():
            cells = (statistics.summarise(list(curve.get(calls, {}).values())) for calls in section.calls)
            table.add_row(method, *map(_mean_and_spread, cells))
        show_table(table)
    say(f"Report: {page}. Figures, tables and runs.csv are beside it.")


def _mean_and_spread(found: Any) -> str:
    """Of a summary over seeds; one seed has no spread."""
    if not found.n:
        return "-"
    return f"{found.mean:.1f}" if found.n == 1 else f"{found.mean:.1f} ±{found.std:.1f}"


# -- settings ----------------------------------------------------------------------------------------------------------

S = TypeVar("S", bound="Settings")


def _columns(text: str | None, label: str | None, image: str | None) -> Columns:
    from tuition.pipeline.job import Columns

    return Columns(text or "auto", label or "auto", image or "auto")


def _settings(kind: type[S], config: Path | None, given: Mapping[str, Any], sets: list[str] | None) -> S:
    """Settings from a YAML file, then --set, then options, the later going before the earlier."""
    read = {} if config is None else kind.read(config)
    if read:
        from tuition.studies.grid import refuse_code

        refuse_code(read, str(config), bool(given.get("trust_code")))
    values = read | _pairs(sets)
    if isinstance(values.get("options", {}), dict):  # options.anchor is the method's setting anchor, as in studies
        nested = {name: values.pop(name) for name in list(values) if str(name).startswith("options.")}
        if nested:
            own = {name.removeprefix("options."): value for name, value in nested.items()}
            values["options"] = values.get("options", {}) | own
    return kind.of(values | {name: value for name, value in given.items() if value is not None})


def _pairs(sets: list[str] | None) -> dict[str, Any]:
    """The settings in NAME=VALUE, values as in YAML."""
    import yaml

    from tuition.training.settings import load_yaml

    values = {}
    for pair in sets or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, not {pair!r}; write for example --set learning_rate=0.1.")
        try:
            values[name] = load_yaml(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
            raise UserError(f"--set {pair} is not valid YAML after the sign; put the value in quotes.") from None
    return values


RESUMED = ("ask", "distill", "study", "teach")  # commands that find what they did before

LONGEST_MESSAGE = 1000  # characters
FILED = (*RESUMED, "demo", "report")  # commands whose results are files

# All that can be wrong with a command line; newer typers carry a click of their own.
UsageError: Any = typer.BadParameter.__base__


def main() -> int:
    """Run the command line. Returns its exit code: what the user can fix is one sentence and 2."""
    output.prepare()
    warnings.showwarning = _warned
    words = [word for word in sys.argv[1:] if word != crash.OPTION]
    traced = len(words) < len(sys.argv) - 1

    def outcome() -> tuple[int, str]:
        return _outcome(words)

    def last_resort(error: Exception) -> tuple[int, str]:
        if traced:
            output.ERR.write(crash.shown(error))
        return crash.EXIT_CODE, crash.sentence(error, words)

    with stopping.handled():
        try:
            if _processes() > 1:
                from tuition.training import parallel

                code, message = parallel.launched(outcome, last_resort)
            else:
                code, message = outcome()
        except Exception as error:
            code, message = last_resort(error)
        if stopping.received() is not None and code != 0:  # whatever a library made of the signal
            # Of several processes one alone has its say.
            code, message = 128 + (stopping.received() or 0), message and _stopped(words)
        if code == 0 and output.OUT.lost:
            code = 0 if words[0] in FILED else 2
            message = f"Error: standard output cannot be written to: {output.OUT.lost}; free space or name a file."
        if message:
            say(escape.shorten(message, LONGEST_MESSAGE))
        return code


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
    """A warning as a line: what a user should know, without a place in the code."""
    if issubclass(category, Notice):
        text = str(message)
        say(f"Note: {text[0].upper()}{text[1:]}")
    else:
        say(warnings.formatwarning(message, category, filename, lineno).rstrip())


def _processes() -> int:
    """How many processes torchrun has started, of which this is one."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def _outcome(words: list[str]) -> tuple[int, str]:
    """The exit code of a command, and what is wrong."""
    try:
        code = app(args=words, prog_name="tuition", standalone_mode=False)
        if code == 130:  # newer typers turn Ctrl-C into this
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0, ""
    except UsageError as error:
        return 2, _sentence(error)
    except UserError as error:
        return 2, f"Error: {error}"
    except (KeyboardInterrupt, typer.Abort):
        return 128 + (stopping.received() or signal.SIGINT), _stopped(words)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # nobody reads what typer itself prints, such as the help
            return 0, ""
        raise
    except MemoryError:
        return 2, "Error: there is not enough memory for this; take fewer or smaller inputs, or a smaller model."
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        return 2, f"Error: {error.filename}: {error.strerror.lower()}; correct this, or name another place."


def _stopped(words: Sequence[str]) -> str:
    """What a stopped command can say truly."""
    return "Stopped. Give the same command again to resume." if words and words[0] in RESUMED else "Stopped."


def _sentence(error: Any) -> str:
    """What is wrong with a command line; the help, where nothing was given."""
    if type(error).__name__ == "NoArgsIsHelpError":
        output.ERR.write(error.format_message() + "\n")
        return ""
    return f"Error: {error.format_message().rstrip('.?')}; see `{error.ctx.command_path} --help`."


if __name__ == "__main__":
    sys.exit(main())
