"""Commands for a finished run: predict, evaluate, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from tuition import disk
from tuition.cli.options import Labels, Pictures, Size, Texts, TrustCode, data_settings
from tuition.cli.output import data as write_data
from tuition.cli.output import new_table, say, show_table
from tuition.cli.tables import number
from tuition.errors import UserError


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
    from tuition.pipeline.predict_inputs import inputs_of
    from tuition.training import files

    if out is not None:
        disk.replaceable(out)
    student = load(run, trust_code=trust_code)
    names, pool = inputs_of(data_settings(inputs, size, text_column, None, image_column), split, student)
    confidence, classes = student.probabilities(pool).max(dim=1)
    rows = [
        {"input": name, "class": student.class_names[index] if student.class_names else index, "confidence": f"{p:.4f}"}
        for name, index, p in zip(names, classes.tolist(), confidence.tolist(), strict=True)
    ]
    if out is None:
        write_data(files.csv_text(rows))
    else:
        files.write_new_rows(out, rows)


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
    from tuition.pipeline.sources import Sources
    from tuition.training import evaluation, files

    if confusion is not None:
        disk.replaceable(confusion)  # which is refused before anything is computed or printed
    student = load(run, trust_code=trust_code)
    pool = Sources().pool(data_settings(data, size, text_column, label_column, image_column), split)
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
            table.add_row(names[row.index], f"{row.count:,}", number(row.recall), number(row.precision))
        show_table(table)
    if confusion is not None:
        say(f"Rows are labels, columns predictions: {confusion}.")


def export(
    run: Annotated[Path, Argument(help="Folder of a finished run.")],
    out: Annotated[Path, Argument(help="ONNX file.")],
    trust_code: TrustCode = False,
) -> None:
    """Export a finished student to ONNX, preprocessing included."""
    from tuition import load

    say(f"Wrote {load(run, trust_code=trust_code).export(out)}.")
