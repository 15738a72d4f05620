"""The report of one run: a page and a text made from its folder, its data and the stored answers. Nothing is asked."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup
from torch import Tensor

from tuition import disk, escape, factories
from tuition.data import Accounts, Bill, Pool
from tuition.errors import UserError
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import DistillSettings, TeachSettings
from tuition.pipeline.settings_file import CONFIG, read_settings, refuse_code
from tuition.pipeline.sources import Sources
from tuition.pipeline.stored_answers import stored_answers
from tuition.store.price import money
from tuition.studies import disagreements, page, run_figures
from tuition.studies.disagreements import Disagreement, Shown
from tuition.studies.records import flatten, read_rows
from tuition.studies.run_verdict import next_steps, verdict
from tuition.studies.table import UNKNOWN, Cell, Table, counts, markdown
from tuition.studies.templating import render, source
from tuition.training import Student, calibration, evaluation, files, load
from tuition.training.rising import still_rising

TEXT, ROUNDS = "report.md", "rounds.csv"
LOOKED_AT = 2000  # stored answers that are searched for disagreements
WORST, TAKEN_FOR = 10, 3  # classes, and the classes that each is taken for most often
T = TypeVar("T")


@dataclass
class RunReport:
    """What is shown of a run, as it is gathered."""

    directory: Path
    record: dict[str, Any]
    figures: list[tuple[Path, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is left out, and why
    facts: list[str] = field(default_factory=list)  # sentences of the verdict, found while measuring
    verdict: list[str] = field(default_factory=list)  # in full
    test: evaluation.Evaluation | None = None
    rising: bool = False  # whether validation was, at the last epoch
    differ: str = ""
    examples: list[Disagreement] = field(default_factory=list)

    @property
    def results(self) -> dict[str, Any]:
        return self.record["results"]

    def attempt(self, what: str, make: Callable[[], T]) -> T | None:
        """Its result; where the user's files do not allow it, None and a note of what is left out."""
        try:
            return make()
        except UserError as error:
            self.notes.append(f"{what}: {error}")
            return None


def build(
    run: Path,
    out: Path,
    *,
    trust_code: bool = False,
    sources: Sources | None = None,
    named: Mapping[str, str] | None = None,
) -> tuple[Path, RunReport]:
    """Write OUT/report.html, OUT/report.md and OUT/figures.

    Args:
        trust_code: import code that the run's folder names, as the factory of its student.
        sources: pools and a teacher that are loaded already.
        named: data, teacher and store of a run that Python made, whose folder does not name them.

    Returns:
        The page, and what it shows.

    Raises:
        UserError: the folder holds no finished run, or `out` holds other files.
    """
    record = files.read_run(run)
    if record["status"] != "done":
        raise UserError(f"the run in {run} is not finished; `tuition watch {run}` shows how far it is.")
    page.check_ours(out, ())
    with disk.hold(out):
        report = RunReport(run, record)
        sources = sources or Sources()
        settings = report.attempt("Data", lambda: _settings(run, trust_code, named or {}))
        student = report.attempt("Student", lambda: load(run, trust_code=trust_code))
        _training(report, out / "figures")
        if settings is not None and student is not None:
            report.attempt("Test data", lambda: _on_test(report, student, settings, sources, out / "figures"))
            if isinstance(settings, DistillSettings):
                report.attempt("Disagreements", lambda: _disagreements(report, student, settings, sources))
        report.verdict = [*verdict(report), *report.facts, *next_steps(report)]
        _write(report, out)
    return out / page.PAGE, report


def _settings(run: Path, trust_code: bool, named: Mapping[str, str]) -> DistillSettings | TeachSettings:
    """The settings that the run's folder keeps, or those that are named for it.

    Raises:
        UserError: there are none, or both; or they name code that is not trusted.
    """
    path = run / CONFIG
    if path.is_file() and named:
        raise UserError(f"{path} names the run's inputs and answers already; leave out {', '.join(named)}.")
    if not path.is_file():
        if "data" not in named:
            raise UserError(
                f"a run that Python made has no {CONFIG}; name its inputs with --data, and its answers with --teacher "
                "and --store."
            )
        return DistillSettings.of({**named, "trust_code": trust_code})
    values = read_settings(path)
    refuse_code(values, str(path), trust_code)
    if "ask" not in values:
        return TeachSettings.of(values)
    return DistillSettings.of(values | {"trust_code": True} if trust_code else values)


# -- what is shown -----------------------------------------------------------------------------------------------------


def _training(report: RunReport, folder: Path) -> None:
    """Curves over epochs and rounds."""
    with (report.directory / files.METRICS).open(newline="") as file:
        history = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    if history and "validation" in history[0]:
        report.rising = still_rising([row["validation"] for row in history])
        run_figures.validation(history, report.results["best_epoch"], folder / "validation")
        measured = report.record.get("measured", {}).get("validation", "")
        report.figures.append((folder / "validation", f"Validation by epoch: {measured}."))
    if history:
        run_figures.losses(history, folder / "losses")
        report.figures.append((folder / "losses", "Terms of the loss by epoch, as they are weighted."))
    path = report.directory / ROUNDS
    rows = read_rows(path, lambda row: (int(row["calls"]), float(row["validation"]))) if path.is_file() else []
    if rows:
        calls, values = zip(*rows, strict=True)
        run_figures.rounds(calls, values, folder / "rounds")
        report.figures.append((folder / "rounds", "Validation after each round, by the inputs asked about so far."))


def _on_test(
    report: RunReport, student: Student, settings: DistillSettings | TeachSettings, sources: Sources, folder: Path
) -> None:
    """Accuracy, calibration and the worst classes, measured on the test data again."""
    if student.output != "logits":
        raise UserError("a student of embeddings names no classes.")
    test = sources.test_pool(settings.data)
    if test is None:
        raise UserError("none was named.")
    labels, logits = student.labels_of(test), student.logits(test)
    report.test = measured = evaluation.evaluate(logits, labels)
    recorded = report.results["accuracy"]
    if recorded is not None and abs(recorded - measured.accuracy) * len(labels) > 300:  # more than three inputs
        report.notes.append(
            f"Test data: it gives {measured.accuracy:.2f} % now, and the run recorded {recorded:.2f} %; these are "
            "not the inputs that it was tested on."
        )
    sure = f"Its confidence is {measured.calibration_error:.1f} points off on average."
    bins, validation = calibration.reliability(logits, labels), _labelled_validation(report, settings, sources)
    after = None
    if validation is not None:
        heat = calibration.temperature(student.logits(validation), student.labels_of(validation))
        after = calibration.reliability(logits / heat, labels)
        error = evaluation.calibration_error(logits / heat, labels)
        sure += (
            f" Dividing the logits by a temperature of {heat:.2f}, fitted on {len(validation):,} validation inputs, "
            f"{'lowers' if error < measured.calibration_error else 'changes'} this to {error:.1f}."
        )
    report.facts.append(sure)
    run_figures.reliability(bins, after, folder / "reliability")
    caption = "Reliability on the test data: below the diagonal it is too sure, above not enough."
    left_out = f"Bins of fewer than {run_figures.FEWEST} inputs are left out."
    report.figures.append((folder / "reliability", f"{caption} {left_out}"))
    report.tables.append(_worst_classes(student, logits.argmax(dim=1), labels))


def _labelled_validation(report: RunReport, settings: DistillSettings | TeachSettings, sources: Sources) -> Pool | None:
    """The labelled inputs that chose the epoch, on which nothing was trained."""
    if isinstance(settings, TeachSettings):
        return sources.validation_pool(settings.data)
    if not (report.directory / CONFIG).is_file():  # then some of them may have been trained on
        return None
    held_out = question_of(settings.changed(select="random", features=None), sources).validation
    return held_out if isinstance(held_out, Pool) else None


def _worst_classes(student: Student, predicted: Tensor, labels: Tensor) -> Table:
    """The classes of the lowest recall, and what they are taken for."""
    classes = int(max(predicted.max(), labels.max())) + 1
    names = student.class_names or tuple(map(str, range(classes)))
    confusion = evaluation.confusion(predicted, labels, classes)
    rows = [row for row in evaluation.per_class(predicted, labels, classes) if row.recall is not None]
    cells = []
    for row in sorted(rows, key=lambda row: (row.recall, -row.count))[:WORST]:
        taken = confusion[row.index].clone()
        taken[row.index] = 0
        most = [i for i in taken.argsort(descending=True, stable=True)[:TAKEN_FOR].tolist() if taken[i]]
        precision = UNKNOWN if row.precision is None else Cell(f"{row.precision:.1f}", value=row.precision)
        cells.append([
            Cell(names[row.index]), *counts([row.count]), Cell(f"{row.recall:.1f}", value=row.recall), precision,
            Cell(", ".join(f"{names[i]} ({int(taken[i]):,})" for i in most) or "-"),
        ])  # fmt: skip
    note = (
        f"The {len(cells)} of {len(rows)} classes with the lowest recall. Recall: how much of the class is classified "
        "as it. Precision: how much of what is classified as it belongs to it. Taken for: other classes, with the "
        "number of inputs."
    )
    header = ["class", "inputs", "recall (%)", "precision (%)", "taken for"]
    return Table("classes", "Worst classes on the test data", note, header, cells)


def _disagreements(report: RunReport, student: Student, settings: DistillSettings, sources: Sources) -> None:
    recorded = report.record["settings"].get("fingerprint")
    if recorded is None and settings.ask.teacher is not None:  # of a run that Python made: whom the user names
        recorded = sources.teacher(settings).fingerprint
    if not isinstance(recorded, str):
        raise UserError("the run does not say which teacher it had; name it with --teacher.")
    found = stored_answers(settings, sources, recorded, LOOKED_AT)
    if student.output == "embedding":
        if len(found.transfer) < 3:
            raise UserError("fewer than three answers are stored.")
        differ, report.examples = disagreements.of_embeddings(student, found.transfer)
        what = "have another nearest input by the student's embedding than by the teacher's"
    else:
        try:
            differ, report.examples = disagreements.of_classes(student, found.transfer, found.labels)
        except ValueError as error:
            raise UserError(f"{error}.") from error
        what = "get another class from the student than from the teacher"
    looked = f" ({found.stored:,} are stored)" if found.stored > len(found.transfer) else ""
    report.differ = (
        f"{differ:,} of {len(found.transfer):,} inputs with stored answers{looked} {what}. The run was trained on some "
        "of these inputs or all; nothing was asked for this page."
    )


# -- the files ---------------------------------------------------------------------------------------------------------


def _write(report: RunReport, out: Path) -> None:
    accounts = Accounts(**report.record["accounts"])
    tables = [_results(report), *report.tables]
    if any(accounts.as_dict().values()):
        tables.append(_accounts(report, accounts, Bill.from_dict(report.record.get("bill", {}))))
    shown = {
        "title": f"Run {report.directory.resolve().name}",
        "verdict": report.verdict,
        "notes": report.notes,
        "differ": report.differ,
        "settings": flatten(report.record["settings"]),
        "versions": report.record["versions"],
    }
    pictures = _pictures(report.examples, out / "figures")
    out.mkdir(parents=True, exist_ok=True)
    text = render(
        "run.md",
        tables=[Markup(markdown(table)) for table in tables],
        figures=report.figures,
        examples=_examples(report, {content: f"figures/{name}" for content, name in pictures.items()}),
        command=Markup(escape.line(_command(report))),
        **shown,
    )
    disk.write(out / TEXT, text.encode())
    css, script = source("report.css"), source("page.js")
    drawn = [(page.inline(path), caption) for path, caption in report.figures]
    made = render(
        "run.html",
        policy=page.policy(script, [css, *page.styles(svg for svg, _ in drawn)], pictures=bool(pictures)),
        css=css,
        script=script,
        tables=tables,
        figures=drawn,
        examples=_examples(report, {content: page.data_url(content) for content in pictures}),
        command=_command(report),
        **shown,
    )
    disk.write(out / page.PAGE, made.encode())


def _command(report: RunReport) -> str:
    """What makes the same run again; empty where its folder does not say."""
    path = report.directory / CONFIG
    if not path.is_file():
        return ""
    command = "distill" if "calls" in report.record["settings"] else "teach"
    trust = ["--trust-code"] if factories.named_in(report.record["settings"]) else []
    return shlex.join(["tuition", command, "--config", str(path), "--out", "NEW_FOLDER", *trust])


def _results(report: RunReport) -> Table:
    names = {
        "accuracy": "test accuracy, best validation (%)",
        "accuracy_last": "test accuracy, last epoch (%)",
        "top5": "test top-5 (%)",
        "calibration_error": "test calibration error (%)",
        "validation": "validation, best (%)",
        "agreement": "agreement with the teacher on the transfer set (%)",
        "teacher_accuracy": "the teacher's accuracy on the transfer set (%)",
        "best_epoch": "best epoch",
        "epochs": "epochs",
        "images_seen": "inputs seen",
        "seconds": "seconds of training",
    }
    known = {words: report.results.get(name) for name, words in names.items()}
    rows = [
        [Cell(words), Cell(f"{value:,.2f}" if isinstance(value, float) else f"{value:,}", value=value)]
        for words, value in known.items()
        if value is not None
    ]
    return Table("results", "Results", "As the run recorded them.", ["figure", "value"], rows)


def _accounts(report: RunReport, accounts: Accounts, bill: Bill) -> Table:
    rows = [[Cell(word), *counts([count])] for word, count in accounts.in_words().items()]
    if bill.cost:
        rows.append([Cell("cost"), Cell(money(bill.cost), value=float(bill.cost))])
    if bill.metered:
        rows += [[Cell("tokens in"), *counts([bill.input_tokens])], [Cell("tokens out"), *counts([bill.output_tokens])]]
    note = "Of the ask that made the transfer set"
    if not report.record.get("measured", {}).get("validation", "").startswith("agreement with the teacher"):
        note += "."
    elif (report.directory / CONFIG).is_file():  # then one ask made both
        note += ", further answers to validate on included."
    else:
        note += ". Answers to validate on are included only where the same ask gave them."
    return Table("bill", "Teacher calls and price", note, ["calls", "number"], rows)


def _pictures(examples: Sequence[Disagreement], folder: Path) -> dict[bytes, str]:
    """Write each picture once; its file's name by its content."""
    names: dict[bytes, str] = {}
    for shown in (shown for each in examples for shown in (each.input, each.teacher, each.student)):
        if shown.picture is not None and shown.picture not in names:
            names[shown.picture] = f"example-{len(names) + 1}.png"
            folder.mkdir(parents=True, exist_ok=True)
            disk.write(folder / names[shown.picture], shown.picture)
    return names


def _examples(report: RunReport, urls: Mapping[bytes, str]) -> list[dict[str, Any]]:
    """The disagreements as a template shows them, with the addresses of their pictures."""

    def cell(shown: Shown) -> dict[str, str]:
        return {"text": shown.text, "url": "" if shown.picture is None else urls[shown.picture]}

    return [
        {"label": each.label, "input": cell(each.input), "teacher": cell(each.teacher), "student": cell(each.student)}
        for each in report.examples
    ]
