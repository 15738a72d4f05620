"""The report of one run: what it shows of images, texts, vectors and embeddings, and that nothing is asked for it."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from tuition import ResponseStore, data, distill, load, teachers
from tuition.cli.main import app
from tuition.data import Accounts, Pool
from tuition.errors import UserError
from tuition.pipeline import job
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.studies import run_figures, run_report
from tuition.training import calibration

WORDS = ("late", "broken", "refund")


@dataclass
class Counted:
    """Answers of a teacher by `answer`, and the inputs it was asked about."""

    answer: Any
    asked: int = 0

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        self.asked += len(inputs)
        return self.answer(inputs)


class Made(Sources):
    """One teacher, and one pool a split."""

    def __init__(self, teacher: Any, pools: dict[str, Pool]) -> None:
        super().__init__()
        self.made, self.pools = teacher, pools

    def teacher(self, settings: Any) -> Any:
        return self.made

    def pool(self, settings: Any, split: str, *, labels: bool = True) -> Pool:
        return self.pools[split] if labels else self.pools[split].without_labels


@dataclass
class Case:
    """A run and what made it."""

    folder: Path
    sources: Made
    out: Path
    page: str
    text: str
    verdict: list[str]
    before: tuple[int, Accounts]  # inputs asked about and the store's accounts before its report, and after
    after: tuple[int, Accounts]


DIGITS = data.load("digits")
CENTRES = torch.stack([DIGITS.inputs[DIGITS.labels == c][:5].float().mean(0).flatten() for c in range(10)])


def digits(inputs: Tensor) -> dict[str, Tensor]:
    """Not good, and not bad: distances to a few images of each digit."""
    return {"logits": -torch.cdist(inputs.float().flatten(1), CENTRES) / 100}


def words(texts: list[str]) -> dict[str, Tensor]:
    return {"logits": torch.tensor([[4.0 * (word in text) for word in WORDS] for text in texts])}


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "images": (digits, {"student": "cnn_4"}),
    "unlabelled": (digits, {"student": "cnn_4", "labels": False, "test": None}),
    "texts": (words, {"student": "bag_16", "method": "kd"}),
    "vectors": (lambda x: {"logits": x[:, :3]}, {"student": "mlp_8", "method": "kd"}),
    "embeddings": (lambda x: {"embedding": x.float().flatten(1)}, {"student": "cnn_4", "method": "rkd", "test": None}),
}


def pools(kind: str) -> dict[str, Pool]:
    if kind == "texts":
        texts = [f"my parcel {i} is {WORDS[i % 3]} & <b>{'x' * (i % 7)}</b>" for i in range(180)]
        made = data.from_tensors(texts, [i % 3 for i in range(180)], class_names=WORDS)
    elif kind == "vectors":
        x = torch.randn(180, 9, generator=torch.Generator().manual_seed(0))
        made = data.from_tensors(x, x[:, :3].argmax(1))
    else:
        both = {split: data.load("digits", split=split) for split in ("train", "test")}
        return {split: pool.without_labels for split, pool in both.items()} if kind == "embeddings" else both
    return {"train": made[:120], "test": made[120:]}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of each kind, made once."""
    made: dict[str, Case] = {}

    def of(kind: str) -> Case:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            answer, settings = CASES[kind]
            function = Counted(answer)
            teacher = teachers.from_callable(function, fingerprint=kind, class_names=WORDS if kind == "texts" else None)
            sources, store = Made(teacher, pools(kind)), str(folder / "responses.db")
            values = {"calls": 60, "epochs": 3, "store": store, "cost_per_call": "0.01", "batch_size": 16}
            job.run(DistillSettings.of(values | {"teacher": "t:t"} | settings), folder / "run", sources)
            before = function.asked, ResponseStore(store).accounts()
            out = folder / "report"
            page, report = run_report.build(folder / "run", out, trust_code=True, sources=sources)
            after = function.asked, ResponseStore(store).accounts()
            texts = page.read_text(), (out / "report.md").read_text()
            made[kind] = Case(folder / "run", sources, out, *texts, report.verdict, before, after)
        return made[kind]

    return of


@pytest.mark.parametrize("kind", CASES)
def test_a_run_of_any_kind_has_a_report_and_nothing_is_asked_for_it(kind: str, case: Any) -> None:
    run = case(kind)
    assert run.before == run.after
    assert "Left out. Disagreements" not in run.text
    assert ("Left out. Test data" in run.text) == (kind in ("unlabelled", "embeddings"))
    assert any("paid calls, for 0." in sentence and "(0.01 a call)" in sentence for sentence in run.verdict)
    assert "## Where student and teacher disagree" in run.text
    for name in re.findall(r"\]\((figures/[^)]*)\)", run.text):
        assert (run.out / name).is_file()
    assert "http:" not in run.page.replace("http://www.w3.org", "")


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_opens_without_an_error_or_a_request(case: Any, browser: Any, width: int) -> None:
    run = case("images")
    browser.open(run.out / "report.html", width)
    browser("document.getElementById('theme').click()")
    assert browser.seen("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    requested = {event["request"]["url"].partition(":")[0] for event in browser.seen("Network.requestWillBeSent")}
    assert requested == {"file", "data"}
    assert browser("document.documentElement.scrollWidth") <= width
    assert browser("[...document.images].every(image => image.naturalWidth === 8)") is True
    assert browser("document.querySelectorAll('figure svg').length") == 3


def test_disagreements_are_those_of_student_and_stored_answers(case: Any) -> None:
    run = case("images")
    page, text = run.page, run.text
    pool = run.sources.pools["train"]
    student = load(run.folder)
    rows = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))[:60]
    theirs, ours = digits(pool.inputs[rows])["logits"].softmax(1), student.probabilities(pool[rows])
    differ = [
        (
            float(a.max() + b.max()),
            f"{a.argmax()} ({100 * a.max():.0f} %)",
            f"{b.argmax()} ({100 * b.max():.0f} %)",
            int(row),
        )
        for a, b, row in zip(theirs, ours, rows, strict=True)
        if a.argmax() != b.argmax()
    ]
    assert 0 < len(differ) < 60
    assert f"{len(differ)} of 60 inputs with stored answers get another class" in text
    shown = re.findall(r"^\| !\[input\]\((\S+)\) \| (.*?) \| (.*?) \| (\d) \|$", text, re.MULTILINE)
    assert len(shown) == min(len(differ), 24) == page.count("<img ")
    for (name, teacher, student_said, label), (_, a, b, row) in zip(shown, sorted(differ, reverse=True), strict=False):
        assert (teacher, student_said, int(label)) == (a, b, int(pool.labels[row]))
        assert np.array_equal(np.asarray(Image.open(run.out / name)), pool.inputs[row][0].numpy())


def test_texts_and_vectors_are_shown_as_words(case: Any) -> None:
    run = case("texts")
    assert "&lt;b&gt;" in run.page
    assert "<b>x" not in run.page + run.text
    first = case("vectors").sources.pools["train"].inputs[:, 0]
    shown = re.findall(r"^\| (-?\d\S*), .*, … \|", case("vectors").text, re.MULTILINE)
    assert shown
    assert {float(value) for value in shown} <= {float(f"{value:.3g}") for value in first.tolist()}


def test_the_worst_classes_are_named_with_what_they_are_taken_for(case: Any) -> None:
    run = case("images")
    pool = run.sources.pools["test"]
    predicted = load(run.folder).predict(pool)
    recall = {c: float((predicted[pool.labels == c] == c).double().mean()) for c in range(10)}
    worst = min(recall, key=recall.__getitem__)
    name, count, right, _, taken = re.search(
        r"### Worst classes.*?:--.*?\n\| (\S+) \| (\d+) \| ([\d.]+) \| (.*?) \| (.*?) \|", run.text, re.DOTALL
    ).groups()
    assert (name, int(count), float(right)) == (
        str(worst),
        int((pool.labels == worst).sum()),
        round(100 * recall[worst], 1),
    )
    for other, times in re.findall(r"(\d) \((\d+)\)", taken):
        assert int(times) == int((predicted[pool.labels == worst] == int(other)).sum()) > 0
    right = int((predicted == pool.labels).sum())
    assert run.verdict[0].startswith(
        f"The student classifies {100 * right / len(pool):.2f} % of {len(pool)} test inputs correctly"
    )


def test_what_cannot_be_loaded_is_said_and_the_rest_is_shown(case: Any, tmp_path: Path) -> None:
    run = case("images")
    other = Made(teachers.from_callable(digits, fingerprint="another"), run.sources.pools)
    run_report.build(run.folder, tmp_path / "other", trust_code=True, sources=other)
    assert "Left out. Disagreements: the teacher" in (tmp_path / "other" / "report.md").read_text()
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in run.folder.iterdir():
        if file.is_file() and file.name != "config.yaml":
            (moved / file.name).write_bytes(file.read_bytes())
    result = CliRunner().invoke(app, ["report", str(moved), "--json"])
    assert result.exit_code == 0, result.output
    text = (moved / "report" / "report.md").read_text()
    assert "Left out. Data: a run that Python made has no config.yaml" in text
    recorded = json.loads((moved / "run.json").read_text())["results"]["accuracy"]
    said = json.loads(result.stdout)["verdict"][0]
    assert said == f"The student classifies {recorded:.2f} % of the 500 inputs of digits test correctly."
    assert json.loads(result.stdout)["left_out"][0].startswith("Data: a run that Python made has no config.yaml")
    assert "Left out. Data: a run that Python made has no config.yaml" in result.stderr
    record = json.loads((moved / "run.json").read_text())
    del record["settings"]["fingerprint"]  # as of a run that Python made
    (moved / "run.json").write_text(json.dumps(record))
    named = {"data": "digits", "teacher": "t:t", "store": str(run.folder.parent / "responses.db")}
    _, told = run_report.build(moved, tmp_path / "told", sources=run.sources, named=named)
    assert told.test is not None
    assert told.test.accuracy == pytest.approx(recorded)
    assert told.notes == []
    assert told.differ.partition(".")[0] in run.text
    assert "Dividing the logits" not in told.verdict[-2], "which inputs were trained on is not known"
    with pytest.raises(UserError, match="names the run's inputs and answers already; leave out data, teacher"):
        run_report._settings(run.folder, True, named)
    record = json.loads((moved / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps(record | {"status": "running"}))
    with pytest.raises(UserError, match="is not finished"):
        run_report.build(moved, tmp_path / "out")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not a report"):
        run_report.build(run.folder, tmp_path / "thesis")


@pytest.mark.parametrize("asked", ["by the command", "apart", "labels"])
def test_the_accounts_say_whether_answers_to_validate_on_are_in_them(case: Any, tmp_path: Path, asked: str) -> None:
    run = case("images" if asked == "labels" else "unlabelled")
    text = run.text
    if asked == "apart":
        store, pool = ResponseStore(tmp_path / "r.db"), run.sources.pools["train"].without_labels
        first, further = (store.ask(run.sources.made, part, budget=150) for part in (pool[:120], pool[120:150]))
        distill("cnn_4", first, "kd", validation=further, epochs=1, out=tmp_path / "run")
        text = run_report.build(tmp_path / "run", tmp_path / "out")[0].with_name("report.md").read_text()
        assert "| paid | 120 |" in text
    assert ("further answers to validate on included." in text) == (asked == "by the command")
    assert ("included only where the same ask gave them." in text) == (asked == "apart")
    assert ("Of the ask that made the transfer set.\n" in text) == (asked == "labels")


OWN = """
import torch
from tuition import models, teachers
def net(num_classes, in_channels):
    return models.create("cnn_4", num_classes=num_classes, in_channels=in_channels)
def teacher():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return teachers.from_torch(net(10, 1), name="own")
"""


def test_code_that_a_run_names_is_said_with_the_command_that_trusts_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (tmp_path / "own_for_report.py").write_text(OWN)
    own = {"teacher": "own_for_report:teacher", "student": "own_for_report:net", "check_answers": False}
    job.run(DistillSettings.of(own | {"data": "digits", "calls": 20, "epochs": 1}), Path("run"))
    shown = CliRunner().invoke(app, ["report", "run", "--out", "page"])
    assert shown.exit_code == 0, shown.output
    assert "Left out. Data: run/config.yaml names code, own_for_report:teacher" in shown.stderr
    assert "tuition report run --out page --trust-code\n" in shown.stderr
    repeat = "tuition distill --config run/config.yaml --out NEW_FOLDER --trust-code"
    assert repeat in (tmp_path / "page/report.md").read_text()
    assert "`tuition distill --config config.yaml --trust-code` repeats" in (tmp_path / "run/README.md").read_text()
    shown = CliRunner().invoke(app, ["report", "run", "--out", "page", "--trust-code"])
    assert "Left out" not in shown.stderr + (tmp_path / "page/report.md").read_text()
    for words in (repeat, repeat.removesuffix(" --trust-code")):
        result = CliRunner().invoke(app, [*words.split()[1:], "--dry-run"])
        assert ("names code" in str(result.exception)) == ("--trust-code" not in words)


def test_the_kept_epoch_is_named_above_the_curve_and_small_bins_are_left_out(tmp_path: Path, monkeypatch: Any) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(run_figures, "_saved", lambda figure, path: drawn.append(figure) or [])
    run_figures.validation([{"epoch": epoch, "validation": 90.0 + epoch} for epoch in range(5)], 4, tmp_path)
    bins = [calibration.Bin(0.3, 0.5, 4), calibration.Bin(0.5, 0.5, 5), calibration.Bin(0.9, 0.8, 40)]
    run_figures.reliability(bins, bins[:1], tmp_path)
    label = drawn[0].axes[0].get_legend()
    assert [text.get_text() for text in label.get_texts()] == ["94.0 %, kept"]
    assert label.get_window_extent().y0 >= drawn[0].axes[0].get_window_extent().y1
    (points,) = drawn[1].axes[0].collections
    assert np.allclose(points.get_offsets(), [[50, 50], [90, 80]])


def test_the_command_takes_one_run_or_studies(case: Any) -> None:
    folder = case("images").folder
    for folders, message in (
        ([folder, folder], "name one folder of a run"),
        ([folder.parent] * 2, "name it with --out"),
    ):
        result = CliRunner().invoke(app, ["report", *map(str, folders)])
        assert message in str(result.exception)


def test_reliability_is_that_of_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(400, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.double().softmax(1).tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        bins.setdefault(min(int(np.ceil(confidence * 15)), 15), []).append((confidence, row.index(confidence) == label))
    expected = [
        (np.mean([c for c, _ in bin]), np.mean([r for _, r in bin]), len(bin)) for _, bin in sorted(bins.items())
    ]
    assert np.allclose(calibration.reliability(logits, labels), expected)


def test_the_temperature_undoes_a_scale() -> None:
    """Labels drawn from softmax(z): logits of 3 z need a temperature of about 3, where the gradient vanishes."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    found = calibration.temperature(3 * z, labels)
    assert found == pytest.approx(3, rel=0.05)
    scaled = 3 * z.double()
    slope = ((scaled / found).softmax(1) * scaled).sum(1) - scaled.gather(1, labels[:, None])[:, 0]
    assert float(slope.mean()) == pytest.approx(0, abs=1e-3)
