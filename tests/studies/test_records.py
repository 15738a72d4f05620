import csv
import json
import math
import multiprocessing
import os
import signal
import time
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition import escape
from tuition.errors import UserError
from tuition.studies import records
from tuition.studies.records import Record

RUN = Record(
    key="a1",
    dataset="digits",
    teacher="net",
    student="net_small",
    method="ckd",
    calls=80,
    seed=0,
    learning_rate=0.05,
    schedule="cosine",
    epochs=40,
    accounting="matched",
    purpose="result",
    accuracy=94.8,
    versions={"torch": "2.13.0"},
    settings={"objective": {"ckd": 1.0}, "note": 'commas, "quotes"  and ünïcode'},
    curve=[[1.0, 2.5, 30.0], [2.0, 1.5, 60.0]],
)


def same(a, b):
    """Equal, where nan equals nan."""
    return repr(asdict(a)) == repr(asdict(b))


def test_a_record_comes_back_as_it_was(tmp_path):
    records.append(tmp_path / "new", RUN)
    (back,) = records.read(tmp_path / "new")
    assert same(back, RUN)
    with open(tmp_path / "new" / "runs.csv", newline="") as file:
        header, row = csv.reader(file)  # readable by anything
    assert header == [column.name for column in fields(Record)]
    assert dict(zip(header, row, strict=True))["learning_rate"] == "0.05"


@settings(max_examples=40, deadline=None)  # each syncs to the disk
@given(
    st.text(),
    st.floats(0, 100) | st.just(math.nan),
    st.dictionaries(st.text(), st.text() | st.floats(-1e15, 1e15) | st.none()),
)
def test_any_text_and_number_survive(tmp_path_factory, text, number, chosen):
    directory = tmp_path_factory.mktemp("any")
    run = replace(RUN, dataset=" ".join(text.split()), accuracy=number, settings=chosen)
    records.append(directory, run)
    records.append(directory, replace(RUN, key="next"))
    back, after = records.read(directory)
    assert same(back, replace(run, dataset=escape.visible(run.dataset)))
    assert after.key == "next"


def test_an_error_stays_on_one_line(tmp_path):
    records.append(tmp_path, replace(RUN, status="failed", error="Traceback:\n  out of\r\n memory"))
    assert records.read(tmp_path)[0].error == "Traceback: out of memory"
    assert len((tmp_path / "runs.csv").read_bytes().splitlines()) == 2


def test_merging_keeps_each_key_once_and_prefers_a_run_that_is_done(tmp_path):
    failed, done = replace(RUN, status="failed", error="killed"), replace(RUN, accuracy=50.0)
    a, b = tmp_path / "a", tmp_path / "b"
    records.append(a, failed)
    records.append(a, replace(RUN, key="other"))
    assert [run.status for run in records.read(a)] == ["failed", "done"]
    records.append(b, done)
    records.append(b, failed)
    assert [(run.key, run.status) for run in records.read(a, b)] == [("a1", "done"), ("other", "done")]
    assert [run.accuracy for run in records.read(b, a)] == [50.0, RUN.accuracy]
    c = tmp_path / "c"
    records.append(c, replace(failed, purpose="selection"))
    records.append(c, replace(done, purpose="selection", accounting="published"))
    records.append(c, done)
    assert [(run.status, run.purpose) for run in records.read(c)] == [("done", "selection"), ("done", "result")]


def test_a_torn_line_is_neither_read_nor_kept(tmp_path):
    records.append(tmp_path, RUN)
    content = (tmp_path / "runs.csv").read_bytes()
    row = content.splitlines(keepends=True)[1]
    for cut in (1, len(row) // 2, len(row) - 1):
        (tmp_path / "runs.csv").write_bytes(content + row[:cut])
        assert len(records.read(tmp_path)) == 1
        records.append(tmp_path, replace(RUN, key="b2"))
        assert [run.key for run in records.read(tmp_path)] == ["a1", "b2"]
    (tmp_path / "runs.csv").write_bytes(content[:10])  # killed within the header
    assert records.read(tmp_path) == []
    records.append(tmp_path, RUN)
    assert (tmp_path / "runs.csv").read_bytes() == content


def write_many(directory, worker, count):
    for i in range(count):
        records.append(directory, replace(RUN, key=f"{worker}-{i}"))


def test_several_processes_append_to_one_file_and_a_kill_harms_none_of_it(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(tmp_path, w, 40)) for w in range(3)]
    victim = context.Process(target=write_many, args=(tmp_path, "victim", 10**6))
    for process in [*workers, victim]:
        process.start()
    while len(records.read(tmp_path) if (tmp_path / "runs.csv").is_file() else []) < 40:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    for process in [*workers, victim]:
        process.join()
    keys = {run.key for run in records.read(tmp_path)}
    assert {f"{w}-{i}" for w in range(3) for i in range(40)} <= keys
    assert len((tmp_path / "runs.csv").read_bytes().splitlines()) >= len(keys) + 1


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"runs\.csv was not found in .*nowhere"):
        records.read(tmp_path / "nowhere")
    records.append(tmp_path, RUN)
    good = (tmp_path / "runs.csv").read_text()
    (tmp_path / "runs.csv").write_text(good.replace(",80,0,", ",eighty,0,"))
    with pytest.raises(UserError, match=r"runs\.csv, line 2: .*eighty"):
        records.read(tmp_path)
    (tmp_path / "runs.csv").write_text(good.replace("learning_rate", "lr"))
    with pytest.raises(UserError, match="lacks the column 'learning_rate'"):
        records.read(tmp_path)
    with pytest.raises(UserError, match="other columns"):
        records.append(tmp_path, RUN)


SCRIPT = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(
            (name, value)
            for name in ("accuracy", "calls", "learning_rate", "seed")
            for value in (SCRIPT, "1e999", "-1")
        ),
        ("accuracy", "100.5"),
        ("calls", "9" * 5000),
        ("learning_rate", "nan"),
        ("seconds", "inf"),
        ("curve", json.dumps([[1, SCRIPT, 30.0]])),
        ("curve", "[[1, 2.0]]"),
        ("curve", "[[1, 2.0, Infinity]]"),
        ("curve", "[[1, 2.0, true]]"),
        ("curve", '{"a": 1}'),
        ("curve", "[" * 100_000),
        ("settings", "[1]"),
        ("settings", '{"a": 1e999}'),
        ("settings", '{"a": {"a": {"a": {"a": {"a": 1}}}}}'),
        ("versions", "1"),
        ("status", SCRIPT),
        ("purpose", "=1+1"),
        ("accounting", ""),
    ],
)
def test_a_row_whose_numbers_are_no_numbers_is_named(column, value, tmp_path):
    """Each would otherwise reach a page."""
    records.append(tmp_path, RUN)
    records.append(tmp_path, replace(RUN, key="b"))
    with open(tmp_path / "runs.csv", newline="") as file:
        rows = list(csv.reader(file))
    rows[2][rows[0].index(column)] = value
    with open(tmp_path / "runs.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    with pytest.raises(UserError, match=r"runs\.csv, line 3: .*; correct or delete that line") as caught:
        records.read(tmp_path)
    assert len(str(caught.value)) < 600
    records.append(tmp_path, RUN)  # and a study writes on


@pytest.mark.parametrize("value", ["=1+1", "+x", "-x", "@x", "\t=x", "'=x", "''", "-1.5", "=", " @x"])
def test_no_text_of_a_record_is_a_formula(value, tmp_path):
    records.append(tmp_path, replace(RUN, teacher=value, error=value, status="failed"))
    with open(tmp_path / "runs.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    for name in ("teacher", "error"):
        assert row[name][:1] not in ("=", "+", "-", "@", "\t", " ") or row[name] == "-1.5"
    assert records.read(tmp_path)[0].teacher == value.strip(), "and it comes back as it was"


def test_a_long_error_is_shortened_and_keeps_its_end(tmp_path):
    records.append(tmp_path, replace(RUN, status="failed", error="Traceback " + "x" * 10**6 + " MemoryError: no room"))
    (back,) = records.read(tmp_path)
    assert len(back.error) <= 300
    assert back.error.startswith("Traceback")
    assert back.error.endswith("MemoryError: no room")


@pytest.mark.parametrize("value", ["[1, null]", '["x"]', "{}", "[]", "[-1]", "[1e999]"])
def test_spectra_are_numbers(value, tmp_path):
    quoted = value.replace(chr(34), chr(34) * 2)
    (tmp_path / "spectra.csv").write_text(f'key,features,logits\nk,[1],"{quoted}"\n')
    with pytest.raises(UserError, match=r"spectra\.csv, line 2"):
        records.read_spectra(tmp_path)


def test_spectra_stand_beside_the_runs(tmp_path):
    assert records.read_spectra(tmp_path) == {}
    records.append_spectra(tmp_path, "a1", {"logits": [5.0], "features": [3.0, 2.0, 1 / 3]})
    assert records.read_spectra(tmp_path) == {"a1": {"features": [3.0, 2.0, 0.333333], "logits": [5.0]}}


@given(st.integers(0, 300), st.integers(2, 60))
def test_a_thinned_curve_keeps_its_ends_and_order(length, points):
    curve = [[epoch, math.exp(-epoch), 100 / 3] for epoch in range(length)]
    thinned = records.thin(curve, points)
    assert len(thinned) == min(length, points)
    epochs = [row[0] for row in thinned]
    assert epochs == sorted(set(epochs))
    if length:
        assert (epochs[0], epochs[-1]) == (0, length - 1 if length > 1 else 0)
        assert thinned[0] == [0, 1.0, 33.33]
