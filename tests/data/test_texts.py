"""Pools of text from files: what stands in a row of each kind of file, and what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tuition import UserError
from tuition.cli import app
from tuition.data import from_tensors, load

TRAIN = [("Good, and long", "good"), ('a "quoted"\nsecond line', "bad"), ("völlig egal", "neutral")]
TEST = [("so so", "neutral"), ("well", "good")]


def write_csv(path, rows, columns="text,label"):
    quoted = ['"' + text.replace('"', '""') + f'",{label}' for text, label in rows]
    path.write_text("\n".join([columns, *quoted]) + "\n")


def write_jsonl(path, rows, names=("text", "label")):
    path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows) + "\n")


def write_parquet(path, rows, names=("text", "label"), classes=None):
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    if classes:
        features = {names[1]: {"_type": "ClassLabel", "names": classes}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


WRITE = {"train.csv": write_csv, "train.jsonl": write_jsonl, "train-00000-of-00001.parquet": write_parquet}


@pytest.mark.parametrize("file", WRITE)
def test_rows_of_every_kind_of_file(tmp_path, file):
    """Classes named by words are those of all splits, so that an index means the same in each."""
    WRITE[file](tmp_path / file, TRAIN)
    WRITE[file](tmp_path / file.replace("train", "test"), TEST)
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert train.inputs == [text for text, _ in TRAIN]
    assert train.class_names == test.class_names == ("bad", "good", "neutral")
    assert train.labels.tolist() == [1, 0, 2]
    assert test.labels.tolist() == [2, 1]
    assert train.name == f"{tmp_path.name} train"
    assert load(tmp_path, label_column=None).labels is None
    assert train.digests == from_tensors([text for text, _ in TRAIN]).digests
    with pytest.raises(UserError, match="no split 'validation'; choose one of: test, train"):
        load(tmp_path, split="validation")


@pytest.mark.parametrize("file", WRITE)
def test_labels_may_be_class_indices(tmp_path, file):
    WRITE[file](tmp_path / file, [(text, i) for i, (text, _) in enumerate(TRAIN)])
    pool = load(tmp_path)
    assert pool.labels.tolist() == [0, 1, 2]
    assert pool.class_names == ("0", "1", "2")


def test_class_names_of_the_metadata(tmp_path):
    write_parquet(tmp_path / "train.parquet", [("a", 1), ("b", 0)], ("sentence", "label"), classes=["no", "yes", "?"])
    pool = load(tmp_path)
    assert (pool.inputs, pool.labels.tolist(), pool.class_names) == (["a", "b"], [1, 0], ("no", "yes", "?"))


def test_lines_of_a_text_file(tmp_path):
    (tmp_path / "train.txt").write_text("one\n\n  two words \nthree")
    assert load(tmp_path).inputs == ["one", "  two words ", "three"]
    assert load(tmp_path / "train.txt").inputs == ["one", "  two words ", "three"]
    with pytest.raises(UserError, match=r"train\.txt has no split 'test'; choose one of: train"):
        load(tmp_path / "train.txt", split="test")


def test_columns_are_found_or_named(tmp_path):
    write_csv(tmp_path / "train.csv", TRAIN, "kept,mood")
    with pytest.raises(UserError, match=r"no text column is known among those of .*train.csv \(kept, mood\)"):
        load(tmp_path)
    assert load(tmp_path, text_column="kept").labels is None
    assert load(tmp_path, text_column="kept", label_column="mood").class_names == ("bad", "good", "neutral")
    with pytest.raises(UserError, match="has no column 'grade'; it has kept, mood"):
        load(tmp_path, text_column="kept", label_column="grade")
    write_parquet(tmp_path / "other.parquet", TRAIN, ("kept", "mood"))
    other = tmp_path / "folder"
    other.mkdir()
    write_parquet(other / "train.parquet", TRAIN, ("kept", "mood"))
    assert load(other, text_column="kept", label_column="mood").labels.tolist() == [1, 0, 2]
    with pytest.raises(UserError, match="no image column is known"):
        load(other)
    with pytest.raises(UserError, match="has no column 'text'"):
        load(other, text_column="text")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("train.csv", "text,label\nfine,1\nbad,\n", "1 rows of .*train.csv have no label; fill them in"),
        ("train.csv", "text,label\n,1\n", "the text in row 0 is empty"),
        ("train.csv", 'text\n"open', "cannot read .*train.csv .*; write it again as UTF-8 csv"),
        ("train.csv", "", "holds no texts; give at least one"),
        ("train.txt", "\n\n", "holds no texts; give at least one"),
        ("train.txt", b"\xff\xfe\x00", "cannot read .*train.txt .*UTF-8 txt"),
        ("train.jsonl", '{"text": "a"}\n{"text": ', "cannot read .*train.jsonl .*UTF-8 jsonl"),
        ("train.jsonl", '"a"\n', "are not all JSON objects"),
        ("train.jsonl", '{"text": 3}\n', "the column 'text' of .* holds something else than text"),
        ("train.jsonl", '{"text": "a", "label": 0}\n{"text": "b"}\n', "1 rows of .* have no label"),
    ],
)
def test_damaged_files_are_refused(tmp_path, file, content, says):
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=says):
        load(tmp_path)


def test_two_files_of_one_split_are_refused(tmp_path):
    write_csv(tmp_path / "train.csv", TRAIN)
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    with pytest.raises(UserError, match=r"holds train\.csv and train\.jsonl; remove one of them"):
        load(tmp_path)


def test_other_files_beside_images_are_no_texts(tmp_path):
    (tmp_path / "notes.txt").write_text("not of a split")
    with pytest.raises(UserError, match="holds no images"):
        load(tmp_path)


def test_the_command_line_shows_texts(tmp_path):
    write_csv(tmp_path / "train.csv", [*TRAIN, TRAIN[0]])
    shown = CliRunner().invoke(app, ["data", str(tmp_path)]).output
    rows = [line.replace("│", " ").split() for line in shown.splitlines()]
    assert ["inputs", "4"] in rows
    assert ["different", "ones,", "each", "a", "teacher", "call", "3"] in rows
    assert ["words,", "of", "the", "median", "text", "and", "the", "longest", "3,", "4"] in rows
    assert ["classes", "3"] in rows
