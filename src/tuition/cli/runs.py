"""Commands that use a finished run: predict, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from tuition import disk
from tuition.cli.output import data as write_data
from tuition.cli.printer import Fact, Printer
from tuition.cli.signatures import takes
from tuition.errors import UserError
from tuition.pipeline.settings import TransferSettings

if TYPE_CHECKING:
    from tuition.data import Pool
    from tuition.training import Student

Name = Annotated[str, Argument(metavar="RUN", help="Folder of a finished run, or OWNER/NAME[@REVISION] on the hub.")]


@takes(TransferSettings, "size text_column image_column trust_code", files=False)
def predict(
    printer: Printer,
    settings: TransferSettings,
    run: Name,
    inputs: Annotated[
        list[str],
        Argument(help="Images, folders of images, files of texts, data sets; - reads texts from stdin, one a line."),
    ],
    split: Annotated[str, Option(help="Split of a data set.")] = "test",
    out: Annotated[Path | None, Option(help="CSV file; by default the terminal.", rich_help_panel="Output")] = None,
) -> int:
    """Predict classes with a finished student, as CSV: input, class, confidence.

    A file that cannot be read is skipped with a sentence, and the exit code is 1.

    Example: tuition predict runs/digits photo1.png photo2.png
    """
    from tuition import load
    from tuition.pipeline.predict_inputs import inputs_of
    from tuition.training import files

    if out is not None:
        disk.replaceable(out)
    student = load(run, trust_code=settings.ask.trust_code)
    skipped: list[str] = []
    rows = [
        row
        for names, pool in inputs_of(inputs, settings.data, split, student, skipped.append)
        for row in predictions(student, names, pool)
    ]
    for reason in skipped:
        printer.warn(f"Skipped: {reason}")
    printer.record(predictions=[row | {"confidence": float(row["confidence"])} for row in rows], skipped=skipped)
    if out is not None:
        files.write_new_rows(out, rows)
    elif not printer.as_json:
        write_data(files.csv_text(rows))
    return 1 if skipped else 0


def predictions(student: Student, names: list[str], pool: Pool) -> list[dict[str, Any]]:
    prediction = student.predict(pool)
    classes = prediction.classes or prediction.tolist()
    return [
        {"input": name, "class": predicted, "confidence": f"{confidence:.4f}"}
        for name, predicted, confidence in zip(names, classes, prediction.confidence.tolist(), strict=True)
    ]


@takes(TransferSettings, "size text_column label_column image_column trust_code", files=False)
def evaluate(
    printer: Printer,
    settings: TransferSettings,
    run: Name,
    data: Annotated[str, Option(help="digits, a folder (parquet, images, text), or a name on the hub.")],
    split: Annotated[str, Option(help="Split to evaluate on.")] = "test",
    per_class: Annotated[bool, Option("--per-class", metavar="", help="Print a row for each class.")] = False,
    confusion: Annotated[Path | None, Option(help="Write the confusion matrix to this CSV file.")] = None,
) -> None:
    """Evaluate a finished student on labelled data.

    Example: tuition evaluate runs/digits --data digits --per-class
    """
    from tuition import load
    from tuition.pipeline.sources import Sources
    from tuition.training import evaluation, files

    if confusion is not None:
        disk.replaceable(confusion)  # which is refused before anything is computed or printed
    student = load(run, trust_code=settings.ask.trust_code)
    pool = Sources().pool(settings.changed(data=data).data, split)
    if pool.labels is None:
        raise UserError(f"evaluation needs labels; {data} has none.")
    labels, logits = student.labels_of(pool), student.logits(pool)
    measured = evaluation.evaluate(logits, labels)
    names = list(student.class_names or map(str, range(logits.shape[1])))
    predicted, classes = logits.argmax(dim=1), logits.shape[1]
    if confusion is not None:
        counts = evaluation.confusion(predicted, labels, classes).tolist()
        cells = (dict(zip(names, row, strict=True)) for row in counts)
        files.write_new_rows(confusion, [{"label": name, **row} for name, row in zip(names, cells, strict=True)])
    facts = [
        Fact("accuracy", "accuracy", measured.accuracy, f"{measured.accuracy:.2f} %"),
        *([] if measured.top5 is None else [Fact("top5", "top-5", measured.top5, f"{measured.top5:.2f} %")]),
        Fact(
            "calibration_error", "calibration error", measured.calibration_error, f"{measured.calibration_error:.2f} %"
        ),
        Fact("inputs", "inputs", measured.count),
    ]
    printer.facts(f"{run} on {data}, {split}", facts)
    if per_class:
        columns = {"class": "class", "inputs": "inputs", "recall": "recall (%)", "precision": "precision (%)"}
        rows = [
            {"class": names[row.index], "inputs": row.count, "recall": row.recall, "precision": row.precision}
            for row in evaluation.per_class(predicted, labels, classes)
        ]
        printer.table("By class", columns, rows, key="classes")
    if confusion is not None:
        printer.say(f"Rows are labels, columns predictions: {confusion}.", confusion=confusion)
