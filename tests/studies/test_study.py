"""Studies run on digits: resumed, killed, continued, stopped in time, with failures; paid once."""

import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from tuition import ResponseStore, data
from tuition.cli import main as cli
from tuition.data import Accounts, Bill
from tuition.errors import UserError
from tuition.models import Preprocess
from tuition.pipeline import job
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import DistillSettings, TeachSettings, TransferSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.teach import teach
from tuition.store import usage
from tuition.store.price import money
from tuition.studies import best, one_run, paid_calls, records, report, study, tables
from tuition.studies.executor import Outcome
from tuition.studies.forecast import forecast
from tuition.studies.grid import Study
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.table import write
from tuition.training import Student, TrainSettings, callbacks
from tuition.training.callbacks import Shown

SMALL = {
    "settings": {"epochs": 3, "device": "cpu"},
    "pairs": [{"teacher": "cnn_16", "student": "cnn_8"}],
    "methods": ["ce", "ckd"],
    "axes": {"calls": [20, 40], "seed": [0, 1]},
}
RATES = {"candidates": {"learning_rate": [0.1, 0.05]}, "at": {"calls": 40, "seed": 0}}


def in_this_process(function, jobs, workers=None):
    """What the executor does, without processes, which take seconds to start."""
    for i, task in enumerate(jobs):
        try:
            yield Outcome(i, function(task))
        except (UserError, KeyError) as error:
            yield Outcome(i, None, str(error))


@pytest.fixture
def here(monkeypatch):
    """In this process, without a best student, which would be one more run."""
    monkeypatch.setattr(study, "run_parallel", in_this_process)
    monkeypatch.setattr(best, "winner", lambda results: None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers") / "cnn_16"
    teach(
        TeachSettings.of({"model": "cnn_16", "examples": 400, "epochs": 4, "learning_rate": 0.1, "device": "cpu"}),
        folder,
    )
    return folder


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    """A small study that is done."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "run_parallel", in_this_process)
        study.run(Study.of(SMALL), out, teachers=[teacher], keep="none")
    return out


def made(run_study, *args, **kwargs):
    """The summary of a study, and how many runs it made."""
    counts = [0]
    summary = run_study(
        *args, **kwargs, progress=lambda what, done, total: counts.append(done) if what == "runs" else None
    )
    return summary, counts[-1]


def rows(folder):
    """All that runs.csv holds but the time it took and where the data lay."""
    return {
        (r.key, r.purpose, r.accounting): (r.method, r.calls, r.seed, r.accuracy, r.validation, str(r.curve), r.status)
        for r in records.read(folder)
    }


# -- what a study leaves -----------------------------------------------------------------------------------------------


def test_every_run_has_its_row(finished):
    read_back = records.read(finished)
    assert {(r.method, r.calls, r.seed) for r in read_back} == {
        (m, c, s) for m in ("ce", "ckd") for c in (20, 40) for s in (0, 1)
    }
    for record in read_back:
        assert (record.dataset, record.teacher, record.student) == ("digits", "cnn_16", "cnn_8")
        assert (record.purpose, record.status, record.epochs, record.schedule) == ("result", "done", 3, "cosine")
        assert record.paid == record.calls
        assert record.images_seen == 3 * record.calls
        assert [point[0] for point in record.curve] == [1, 2, 3]
        assert 0 <= record.accuracy <= 100
        assert record.validation == max(point[2] for point in record.curve)
        assert record.settings["options"].get("anchor") == (0.1 if record.method == "ckd" else None)
        assert str(finished) not in json.dumps(record.settings), "no path of this machine"
    assert not (finished / "unfinished").exists()


def digests(**settings):
    """Of the inputs that are asked about."""
    return question_of(TransferSettings.of(settings), Sources()).inputs.digests


def test_a_run_equals_the_same_one_made_by_distill(finished, teacher, tmp_path):
    record = next(r for r in records.read(finished) if (r.method, r.calls, r.seed) == ("ckd", 40, 1))
    chosen = DistillSettings.of(
        {
            **SMALL["settings"],
            "calls": 40,
            "seed": 1,
            "method": "ckd",
            "teacher": str(teacher),
            "store": str(tmp_path / "r"),
        }
    )
    run = job.run(chosen)
    assert (run.accuracy, run.validation, run.agreement) == (record.accuracy, record.validation, record.agreement)


def test_answers_are_paid_once_for_all_methods_and_budgets(finished):
    asked = set()
    for seed in (0, 1):
        asked |= set(digests(calls=40, seed=seed))
    assert ResponseStore(str(finished / "responses.db")).accounts("cnn_16").paid == len(asked)


def test_what_was_paid_stands_beside_the_runs_and_in_the_report(teacher, tmp_path, here):
    priced = {"settings": SMALL["settings"] | {"cost_per_call": "0.25"}, "methods": ["ce"]}
    study.run(Study.of(SMALL | priced), tmp_path, teachers=[teacher])
    (held,) = usage(ResponseStore(str(tmp_path / "responses.db")))
    (row,) = paid_calls.read([tmp_path, tmp_path])
    assert (row.teacher, row.accounts.paid, row.bill) == ("cnn_16", held.accounts.paid, held.bill)
    assert row.bill.cost == row.accounts.paid * Decimal("0.25") > 0
    page = report.build([tmp_path], tmp_path / "page").read_text()
    assert money(row.bill.cost) in page


@pytest.mark.parametrize("value", ["-1", "1.5", "x", "nan", ""])
def test_a_count_of_paid_calls_that_is_not_one_is_named(value, tmp_path):
    paid_calls.write(tmp_path, [PaidCalls("=t", Accounts(paid=77), Bill(Decimal("0.5"), 3, 4, 5))])
    assert paid_calls.read([tmp_path]) == [PaidCalls("=t", Accounts(paid=77), Bill(Decimal("0.5"), 3, 4, 5))]
    text = (tmp_path / "accounts.csv").read_text()
    for old in (",77,", ",0.5\n"):
        (tmp_path / "accounts.csv").write_text(text.replace(old, old.replace(old.strip(",\n"), value)))
        if (old, value) != (",0.5\n", "1.5"):
            with pytest.raises(UserError, match=r"accounts\.csv, line 2"):
                paid_calls.read([tmp_path])


@pytest.mark.parametrize("view", ["clean", "random"])
def test_a_smaller_budget_asks_nothing_that_a_larger_one_does_not(view):
    asked = [set(digests(calls=calls, seed=3, view=view)) for calls in (30, 90)]
    assert asked[0] < asked[1]


# -- nothing twice -----------------------------------------------------------------------------------------------------


def test_equal_settings_never_run_twice_and_a_changed_one_is_new(finished, teacher, tmp_path, here):
    before = (finished / "runs.csv").read_bytes()
    summary, count = made(study.run, Study.of(SMALL), finished, teachers=[teacher])
    assert (summary.done, summary.failed, summary.left, count) == (8, [], 0, 0)
    assert (finished / "runs.csv").read_bytes() == before

    grown = Study.of(SMALL | {"methods": ["ce", "ckd", "kd"]})
    summary, count = made(study.run, grown, tmp_path, teachers=[teacher], continue_from=[finished])
    assert (summary.done, count) == (12, 4), "only kd is new"
    assert rows(finished).items() <= rows(tmp_path).items()
    changed = Study.of(SMALL | {"settings": SMALL["settings"] | {"epochs": 2}})
    assert forecast(changed, tmp_path, teachers=[teacher]).runs == 8


def test_a_continued_study_pays_for_nothing_that_it_does_not_need(finished, teacher, tmp_path, here):
    study.run(Study.of(SMALL), tmp_path, teachers=[teacher], continue_from=[finished])
    assert not (tmp_path / "responses.db").exists()


def test_another_teacher_of_the_same_name_makes_other_runs(finished, tmp_path, here):
    other = tmp_path / "cnn_16"
    teach(TeachSettings.of({"model": "cnn_16", "examples": 100, "epochs": 1, "device": "cpu"}), other)
    assert forecast(Study.of(SMALL), tmp_path / "s", teachers=[other], continue_from=[finished]).runs == 8
    with pytest.raises(UserError, match="stands for another teacher"):
        study.run(Study.of(SMALL), finished, teachers=[other])


def test_defaults_that_change_make_new_runs(finished, teacher, monkeypatch):
    assert forecast(Study.of(SMALL), finished, teachers=[teacher]).runs == 0
    monkeypatch.setattr(TrainSettings.model_fields["momentum"], "default", 0.8)
    TrainSettings.model_rebuild(force=True)
    DistillSettings.model_rebuild(force=True)
    try:
        assert forecast(Study.of(SMALL), finished, teachers=[teacher]).runs == 8
    finally:
        monkeypatch.undo()
        TrainSettings.model_rebuild(force=True)
        DistillSettings.model_rebuild(force=True)


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_a_rate_is_chosen_and_its_run_reused(teacher, tmp_path, here):
    chosen = Study.of(SMALL | {"methods": ["ckd"], "choose": RATES})
    summary, count = made(study.run, chosen, tmp_path, teachers=[teacher])
    assert (summary.done, count) == (5, 5), "two tried, of which one is among the four results"
    read_back = records.read(tmp_path)
    tried = {r.learning_rate: r.validation for r in read_back if r.purpose == "selection"}
    best = max(tried, key=lambda rate: (tried[rate], rate))
    results = [r for r in read_back if r.purpose == "result"]
    assert len(results) == 4
    assert {r.learning_rate for r in results} == {best}


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_failed_run_is_recorded_and_retried_on_request_only(teacher, tmp_path, here):
    diverging = Study.of(SMALL | {"methods": ["ckd"], "axes": {"calls": [40], "learning_rate": [0.05, 1e30]}})
    summary, count = made(study.run, diverging, tmp_path, teachers=[teacher])
    assert (summary.done, count) == (1, 2)
    (failed,) = summary.failed
    assert failed.learning_rate == 1e30
    assert "lower the learning rate" in failed.error
    assert {r.status for r in records.read(tmp_path)} == {"done", "failed"}
    summary, count = made(study.run, diverging, tmp_path, teachers=[teacher])
    assert (len(summary.failed), count) == (1, 0)
    summary, count = made(study.run, diverging, tmp_path, teachers=[teacher], retry=True)
    assert (len(summary.failed), count) == (1, 1)


def test_a_retry_that_succeeds_replaces_the_failure(teacher, tmp_path, here, monkeypatch):
    train, full = study.train, Study.of(SMALL)

    def fragile(task, sources):
        if task.settings.data.seed == 1:
            raise KeyError("out of memory")
        return train(task, sources)

    monkeypatch.setattr(study, "train", fragile)
    summary = study.run(full, tmp_path, teachers=[teacher])
    assert (summary.done, len(summary.failed)) == (4, 4)
    monkeypatch.setattr(study, "train", train)
    summary, count = made(study.run, full, tmp_path, teachers=[teacher], retry=True)
    assert (summary.done, summary.failed, count) == (8, [], 4)
    assert {r.status for r in records.read(tmp_path)} == {"done"}


@pytest.mark.parametrize(
    "error",
    [
        "\x1b[31mred\x07 \u202e\0 \ud800 =1+1 " + "line\r\n" * 200_000 + "MemoryError: no room",
        "x" * 10**6,
        " \n\t ",
        "",
    ],
    ids=["lines and controls", "one long word", "blanks", "nothing"],
)
def test_a_long_error_of_a_failed_run_does_not_spoil_the_study(teacher, tmp_path, here, monkeypatch, capsys, error):
    """The study ends, is written, read, reported, given again and retried; the other runs are not touched."""
    train, file = study.train, tmp_path / "study.yaml"
    small = SMALL | {"methods": ["ckd"], "axes": {"calls": [20, 40], "seed": [0, 1]}}
    file.write_text(yaml.safe_dump(small))

    def fragile(task, sources):
        if task.settings.data.seed == 1:
            raise UserError(error)
        return train(task, sources)

    monkeypatch.setattr(study, "train", fragile)
    command = ["tuition", "study", str(file), "--out", str(tmp_path / "out"), "--teacher", str(teacher)]
    monkeypatch.setattr(sys, "argv", command)
    for again in (False, True):
        assert cli.main() == 1
        printed = capsys.readouterr()
        failures = [line for line in printed.err.splitlines() if line.startswith("Failed: ")]
        assert len(failures) == 2, again
        assert max(map(len, failures)) < 500
        assert not set(printed.err) & set("\x07\0\u202e\ud800")
    content = (tmp_path / "out" / "runs.csv").read_bytes()
    assert len(content) < 20_000
    assert not content.translate(None, bytes(range(32, 256)) + b"\n"), "no control character is stored"
    read_back = records.read(tmp_path / "out")
    assert [(run.seed, run.status) for run in read_back].count((0, "done")) == 2
    assert all(run.error for run in read_back if run.status == "failed")
    assert "2 failed" in (tmp_path / "out" / "report.html").read_text()
    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(sys, "argv", [*command, "--retry"])
    assert cli.main() == 0
    assert {run.status for run in records.read(tmp_path / "out")} == {"done"}


def test_a_run_is_known_again_whatever_the_length_of_its_settings(teacher, tmp_path, here):
    place = tmp_path.joinpath(*["a folder with a long name" * 4] * 4)
    place.mkdir(parents=True)
    small = Study.of(
        SMALL
        | {"methods": ["ckd"], "axes": {"calls": [20]}, "settings": SMALL["settings"] | {"store": f"{place}/r.db"}}
    )
    assert made(study.run, small, tmp_path / "out", teachers=[teacher])[1] == 1
    assert made(study.run, small, tmp_path / "out", teachers=[teacher])[1] == 0


def test_a_candidate_that_fails_is_not_chosen(teacher, tmp_path, here):
    rates = {"candidates": {"learning_rate": [1e30, 0.05]}}
    study.run(
        Study.of(SMALL | {"methods": ["ckd"], "axes": {"calls": [40]}, "choose": rates}), tmp_path, teachers=[teacher]
    )
    assert {(r.purpose, r.learning_rate, r.status) for r in records.read(tmp_path)} == {
        ("selection", 1e30, "failed"),
        ("selection", 0.05, "done"),
        ("result", 0.05, "done"),
    }


def test_what_cannot_be_is_said_before_anything_is_asked(teacher, tmp_path, here):
    for change, sentence in [
        ({"methods": ["ckd", "kdd"]}, "the method 'kdd' was not found"),
        ({"methods": [{"method": "ckd", "options": {"ancor": 1}}]}, "did you mean anchor"),
        ({"axes": {"calls": [20, 2000]}}, "do not fit"),
        ({"settings": SMALL["settings"] | {"budget": 60}, "axes": {"calls": [40], "seed": [0, 1]}}, "budget is 60"),
        ({"pairs": [{"teacher": "cnn_8", "student": "cnn_8"}]}, "is a cnn_16"),
    ]:
        with pytest.raises(UserError, match=sentence):
            study.run(Study.of(SMALL | change), tmp_path / "s", teachers=[teacher])
        assert not (tmp_path / "s" / "responses.db").exists()


# -- looking ahead, stopping, being killed -----------------------------------------------------------------------------


def test_a_forecast_is_right_and_writes_nothing(teacher, tmp_path, here):
    full = Study.of(SMALL | {"choose": RATES})
    ahead = forecast(full, tmp_path / "s", teachers=[teacher])
    assert not (tmp_path / "s").exists()
    assert ahead.seconds > 0
    _, count = made(study.run, full, tmp_path / "s", teachers=[teacher])
    store = ResponseStore(str(tmp_path / "s" / "responses.db"))
    assert (ahead.runs, ahead.new, ahead.known, ahead.teachers) == (count, store.accounts().paid, 0, [])
    content = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    ahead = forecast(Study.of(SMALL | {"axes": {"calls": [20, 60], "seed": [0]}}), tmp_path / "s", teachers=[teacher])
    assert ahead.paid == store.accounts().paid
    needed = set(digests(calls=60))
    held = {d for s in (0, 1) for d in digests(calls=40, seed=s)}
    assert ahead.new == len(needed - held)
    assert content == {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}


def test_a_forecast_names_the_teachers_to_train(tmp_path):
    ahead = forecast(Study.of(SMALL), tmp_path / "s")
    assert (ahead.runs, ahead.teachers) == (8, ["cnn_16"])
    assert not (tmp_path / "s").exists()


def test_no_time_is_no_run_and_then_it_goes_on(finished, teacher, tmp_path, here):
    summary, count = made(study.run, Study.of(SMALL), tmp_path, teachers=[teacher], minutes=0)
    assert (summary.done, summary.left, count) == (0, 8, 0)
    study.run(Study.of(SMALL), tmp_path, teachers=[teacher])
    assert rows(tmp_path) == rows(finished)


def test_a_teacher_is_trained_first_and_its_training_resumed(tmp_path, here, monkeypatch):
    full = Study.of(SMALL | {"teaching": {"epochs": 2, "examples": 60, "checkpoint_seconds": 0}, "methods": ["ce"]})
    clock = iter(range(10**6))
    for module in (study, one_run, callbacks):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: next(clock)))
    assert study.run(full, tmp_path, minutes=0.5 / 60).left == 4  # its time is up after the first epoch
    assert json.loads((tmp_path / "teachers/cnn_16/run.json").read_text())["status"] == "running"
    assert (tmp_path / "teachers/cnn_16/checkpoint.bin").exists()
    summary, _ = made(study.run, full, tmp_path)
    assert (summary.done, summary.left) == (4, 0)


def test_a_run_stopped_in_the_middle_goes_on_from_its_checkpoint(finished, teacher, tmp_path, here, monkeypatch):
    slow = Study.of(SMALL | {"settings": SMALL["settings"] | {"checkpoint_seconds": 0}})
    monkeypatch.setattr(study, "CHECKPOINTED", 0)
    clock = iter(range(10**6))
    for module in (study, one_run, callbacks):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: next(clock)))
    summary = study.run(slow, tmp_path, teachers=[teacher], minutes=13 / 60)
    assert summary.done > 0
    assert summary.left > 0
    (folder,) = (tmp_path / "unfinished").iterdir()
    assert (folder / "checkpoint.bin").exists()
    epochs = []
    for module in (study, one_run, callbacks):
        monkeypatch.setattr(module, "time", time)
    distill = job.distill

    def watched(*args, callbacks, **kwargs):
        return distill(*args, callbacks=[Shown(lambda done, *rest: epochs.append(done), 0)], **kwargs)

    monkeypatch.setattr(job, "distill", watched)
    assert study.run(slow, tmp_path, teachers=[teacher]).left == 0
    assert epochs[0] > 1, "the first run goes on where it stopped"
    assert rows(tmp_path) == rows(finished)
    assert not list((tmp_path / "unfinished").iterdir())


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_gives_the_same_tables(finished, teacher, tmp_path):
    file, out = tmp_path / "study.yaml", tmp_path / "killed"
    file.write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, "-m", "tuition", "study", str(file), "--out", str(out), "--teacher", str(teacher)]

    def start():
        core = {min(os.sched_getaffinity(0))}  # one thread, as the finished study had, for equal rounding
        return subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, core))

    process = start()
    while not (out / "runs.csv").exists() or (out / "runs.csv").read_bytes().count(b"\n") < 4:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = rows(out)
    assert 0 < len(before) < 8
    assert start().wait() == 0
    assert rows(out) == rows(finished)
    assert before.items() <= rows(out).items()
    paid = [ResponseStore(str(folder / "responses.db")).accounts().paid for folder in (out, finished)]
    assert paid[0] == paid[1]

    (section,) = records.sections(records.read(finished))
    write([t for t in tables.all_tables(section) if not t.name.startswith("cost")], tmp_path / "expected")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}
    assert len(expected) > 3
    assert expected.items() <= {path.name: path.read_bytes() for path in (out / "tables").iterdir()}.items()
    assert (out / "report.html").exists()
    assert (out / "command.txt").read_text().startswith("tuition study ")


def test_the_command_stops_in_time_with_an_exit_code_of_its_own(teacher, tmp_path, here, monkeypatch, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    words = ["tuition", "study", str(file), "--out", str(tmp_path / "s"), "--teacher", str(teacher)]
    monkeypatch.setattr(sys, "argv", [*words, "--dry-run"])
    cli.main()
    printed = capsys.readouterr()
    assert "new teacher calls" in printed.out
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(sys, "argv", [*words, "--max-minutes", "0"])
    assert cli.main() == 3
    assert "8 or more are left. The same command resumes." in capsys.readouterr().err


def test_the_report_of_several_studies_by_command(finished, teacher, tmp_path, here, monkeypatch, capsys):
    study.run(Study.of(SMALL | {"methods": ["kd"]}), tmp_path / "other", teachers=[teacher])
    folders = [str(finished), str(tmp_path / "other")]
    monkeypatch.setattr(sys, "argv", ["tuition", "report", *folders, "--out", str(tmp_path / "out")])
    cli.main()
    printed = capsys.readouterr().out
    means = {(m, c): [] for m in ("ce", "kd", "ckd") for c in (20, 40)}
    for record in records.read(*map(Path, folders)):
        means[record.method, record.calls].append(record.accuracy)
    for (method, _), values in means.items():
        line = next(line for line in printed.splitlines() if line.split()[:1] == [method])
        assert f"{np.mean(values):.1f} ±{np.std(values, ddof=1):.1f}" in line
    assert (tmp_path / "out" / "report.html").exists()


# -- spectra and logs --------------------------------------------------------------------------------------------------


def test_spectra_are_those_of_the_centred_penultimate_features_and_logits():
    pool = data.load("digits", split="test")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 20), torch.nn.Linear(20, 10))
    student = Student(model, Preprocess([0.5], [0.3]), input_shape=(1, 8, 8)).eval()
    with torch.no_grad():
        features = model[:2](student.preprocess(pool.inputs))
        outputs = {"features": features.double().numpy(), "logits": model[2](features).double().numpy()}
    found = one_run.spectra(student, pool)
    assert set(found) == set(outputs)
    for output, rows in outputs.items():
        expected = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
        np.testing.assert_allclose(found[output], expected, rtol=1e-5)


def test_spectra_are_kept_and_continued_with(teacher, tmp_path, here):
    spectral = Study.of(SMALL | {"methods": ["ce"], "axes": {"calls": [20]}, "spectra": True})
    study.run(spectral, tmp_path / "a", teachers=[teacher])
    read_back = records.read_spectra(tmp_path / "a")
    lengths = [{output: len(values) for output, values in spectra.items()} for spectra in read_back.values()]
    assert lengths == [{"features": 32, "logits": 10}]
    assert list(read_back) == [r.key for r in records.read(tmp_path / "a")]
    summary, count = made(study.run, spectral, tmp_path / "b", teachers=[teacher], continue_from=[tmp_path / "a"])
    assert (summary.done, count) == (1, 0)
    assert records.read_spectra(tmp_path / "b") == read_back


def test_runs_without_spectra_are_made_again_where_spectra_are_wanted(finished, teacher, tmp_path, here):
    spectral = Study.of(SMALL | {"methods": ["ce"], "axes": {"calls": [20]}, "spectra": True})
    summary, count = made(study.run, spectral, tmp_path, teachers=[teacher], continue_from=[finished])
    assert (summary.done, count) == (1, 1)


def test_logs_for_tensorboard(teacher, tmp_path, here):
    logs = tmp_path / "logs"
    logged = Study.of(
        SMALL | {"settings": SMALL["settings"] | {"log_dir": str(logs)}, "methods": ["ce"], "axes": {"calls": [20]}}
    )
    study.run(logged, tmp_path / "s", teachers=[teacher])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = logs.iterdir()
    assert folder.name.startswith("ce-20-seed0-")
    events = EventAccumulator(str(folder)).Reload()
    (record,) = records.read(Path(tmp_path / "s"))
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("validation")] == [
        (point[0], round(point[2], 3)) for point in record.curve
    ]


@pytest.mark.slow
def test_sigterm_to_the_parent_ends_its_workers_and_the_books_are_exact(teacher, tmp_path):
    """To the parent alone, as a scheduler sends it; and no child's command line repeats what the parent's holds."""
    file, out = tmp_path / "study.yaml", tmp_path / "out-hunter2"
    file.write_text(yaml.safe_dump(SMALL | {"axes": {"calls": [20, 40], "seed": [0, 1, 2, 3]}}))
    words = ["study", str(file), "--out", str(out), "--teacher", str(teacher), "--workers", "2"]
    secret = {"DATABASE_URL": "postgresql://me:hunter2@host/db", "PGPASSWORD": "hunter2"}
    command = [sys.executable, "-m", "tuition", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | secret)
    while not (out / "runs.csv").exists() or (out / "runs.csv").read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    children = descendants(process.pid)
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    assert sum(b"spawn_main" in line for line in lines.values()) == 2
    assert not [line for line in lines.values() if b"hunter2" in line]
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    *progress, last = err.splitlines()
    assert last == "Stopped. Give the same command again to resume."
    assert all(line.startswith(("calls: ", "runs: ")) for line in progress), "a line every few seconds, no more"
    while any(running(pid) for pid in children):  # ends with the time limit of a test, if ever
        time.sleep(0.01)

    store = ResponseStore(str(out / "responses.db"))
    accounts = store.accounts()  # which settles what was in flight
    stored = sum(held.responses for held in usage(store))
    assert accounts.paid - accounts.unknown == stored
    assert subprocess.run(command, env=os.environ | secret).returncode == 0
    again = store.accounts()
    assert again.paid - again.unknown == sum(held.responses for held in usage(store))
    assert again.unknown == accounts.unknown
    assert "hunter2@" not in "".join(p.read_text(errors="replace") for p in out.rglob("*.*") if p.is_file())


def running(pid):
    """Whether the process runs; one that ended counts as ended before anyone has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [pid for child in children for pid in descendants(child)]
