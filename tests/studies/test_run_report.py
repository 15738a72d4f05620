"""The report of one run: what it shows of images, texts, vectors and embeddings, and that nothing is asked for it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from tuition import ResponseStore, data, load, teachers
from tuition.cli.main import app
from tuition.data import Accounts, Pool
from tuition.errors import UserError
from tuition.pipeline import job
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.studies import run_report
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
            page, verdict = run_report.build(folder / "run", out, trust_code=True, sources=sources)
            after = function.asked, ResponseStore(store).accounts()
            texts = page.read_text(), (out / "report.md").read_text()
            made[kind] = Case(folder / "run", sources, out, *texts, verdict, before, after)
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
    assert run.verdict[0].startswith(f"{100 * right / len(pool):.2f} % of {len(pool)} test inputs are right")


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
    assert said == f"{recorded:.2f} % of the test inputs are right: the 500 inputs of digits test."
    record = json.loads((moved / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps(record | {"status": "running"}))
    with pytest.raises(UserError, match="is not finished"):
        run_report.build(moved, tmp_path / "out")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not a report"):
        run_report.build(run.folder, tmp_path / "thesis")


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
