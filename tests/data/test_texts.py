"""Pools of text from files: what stands in a row of each kind of file, and what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tuition import UserError
from tuition.cli.main import app
from tuition.data import from_tensors, load
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import TransferSettings
from tuition.pipeline.sources import Sources
from tuition.training import load as load_run

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
    with pytest.raises(UserError, match=r"neither a text column nor .* of .*train.csv \(kept, mood\)"):
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
    with pytest.raises(UserError, match="neither a text column nor an image column is known"):
        load(other)
    with pytest.raises(UserError, match="has no column 'text'"):
        load(other, text_column="text")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("train.csv", "text,label\nfine,1\nbad,\n", "1 rows of .*train.csv have no label; fill them in"),
        ("train.csv", "text,label\n,1\n", "the text in row 0 is empty"),
        ("train.csv", 'text\n"open', "cannot read .*train.csv .*; write it again as UTF-8 csv"),
        ("train.csv", "", "holds no rows; give at least one"),
        ("train.txt", "\n\n", "holds no rows; give at least one"),
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


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            "train.csv",
            "text,label\na, b,1\nc,0\n",
            r"row 0 of .*train\.csv \(line 2\) has 3 fields where its header has 2",
        ),
        ("train.csv", "text,label\na,1\nb\n", r"row 1 of .*train\.csv \(line 3\) has 1 fields where its header has 2"),
        ("train.csv", 'text,label\n"a\nb",1\n\nc,d,e,0\n', r"row 1 of .*train\.csv \(line 5\) has 4 fields"),
        ("train.csv", "text,label,text\na,1,b\n", "has two columns 'text'; rename one"),
        (
            "train.csv",
            "text,label\na,0.5\nb,1\n",
            r"'label' of .*train\.csv holds real numbers \(0\.5 in row 0\), not classes",
        ),
        ("train.csv", "text,label\na,1\nb,1e-3\n", r"holds real numbers \(1e-3 in row 1\)"),
        ("train.csv", "text,label\na,1\nb,nan\n", r"holds real numbers \(nan in row 1\)"),
        ("train.jsonl", '{"text": "a", "label": 1.0}', r"holds real numbers \(1\.0 in row 0\)"),
        (
            "train.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b", "label": ["x"]}',
            r"holds lists \(\['x'\] in row 1\)",
        ),
        ("train.jsonl", '{"text": "a", "label": {"x": 1}}', "holds values of type dict"),
        ("train.jsonl", '{"text": "a"}\n{"text": "b", "label": 1}', r"1 rows of .* have no label"),
        (
            "train.jsonl",
            '{"text": "a"}\n{"text": "b\\ud83d"}',
            r"text in row 1 of .*train\.jsonl holds half a character",
        ),
        (
            "train.jsonl",
            '{"text": "a", "label": "\\udc00"}',
            r"label in row 0 of .*train\.jsonl holds half a character",
        ),
        ("train.jsonl", '{"text": "a"}\n\n{"text" "b"}', r"cannot read .*train\.jsonl \(line 3: "),
        ("train.jsonl", "[" * 100_000, r"cannot read .*train\.jsonl \(line 1: "),
        ("train.jsonl", '{"text": "a", "label": ' + "1" * 5000 + "}", r"cannot read .*train\.jsonl \(line 1: "),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path, file, content, says):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("kind", "values"),
    [("list<", [["a"], ["b"]]), ("double", [0.5, 1.0]), ("timestamp", pa.array([1, 2], pa.timestamp("s")))],
)
def test_columns_of_parquet_that_are_not_classes(tmp_path, kind, values):
    pq.write_table(pa.table({"text": ["a", "b"], "label": values}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=rf"the column 'label' of .* holds {kind}.*, not classes; pass another one"):
        load(tmp_path)
    assert load(tmp_path, label_column=None).labels is None


def test_long_texts_and_quoted_commas(tmp_path):
    long = "word, " * 50_000
    (tmp_path / "train.csv").write_text(f'text,label\n"{long}",1\n"a ""b"", c",0\n')
    assert load(tmp_path).inputs == [long, 'a "b", c']


@pytest.mark.parametrize(
    ("labels", "indices", "names"),
    [
        (["10", "9", "a"], [1, 0, 2], ("9", "10", "a")),
        (["1", "3", "2"], [0, 2, 1], ("1", "2", "3")),  # counted from one, as in many a data set of reviews
        (["1", "-1", "0"], [2, 0, 1], ("-1", "0", "1")),
        (["02", "10", "1"], [1, 2, 0], ("1", "02", "10")),
        (["0", "2"], [0, 2], ("0", "1", "2")),
        (["2", "3"], [2, 3], ("0", "1", "2", "3")),
        (["True", "False"], [1, 0], ("False", "True")),
        (["v2.0", "1.5"], [1, 0], ("1.5", "v2.0")),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_classes_that_are_numbers(tmp_path, kind, labels, indices, names):
    write = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}[kind]
    write(tmp_path / f"train.{kind}", [(f"text {i}", label) for i, label in enumerate(labels)])
    pool = load(tmp_path)
    assert (pool.labels.tolist(), pool.class_names) == (indices, names)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_classes_of_all_splits(tmp_path, kind):
    write = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}[kind]
    write(tmp_path / f"train.{kind}", [("a", "2"), ("b", "0")])
    write(tmp_path / f"test.{kind}", [("c", "11"), ("d", "1")])
    write(tmp_path / f"val.{kind}", [("e", "-1"), ("f", "-1")])  # withheld
    assert load(tmp_path).num_classes == load(tmp_path, split="test").num_classes == 12
    validation = load(tmp_path, split="validation")
    assert (validation.labels, validation.num_classes) == (None, 12)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_train_split_may_be_unlabelled(tmp_path, kind):
    write = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}[kind]
    if kind == "csv":
        (tmp_path / "train.csv").write_text("text\na\nb\n")
    else:
        write(tmp_path / f"train.{kind}", [("a",), ("b",)], names=("text",))
    write(tmp_path / f"test.{kind}", [("c", "good"), ("d", "bad")])
    for column in ("auto", "label"):
        train = load(tmp_path, label_column=column)
        assert (train.labels, train.class_names) == (None, ("bad", "good"))
        assert load(tmp_path, split="test", label_column=column).labels.tolist() == [1, 0]
    with pytest.raises(UserError, match="has no column 'grade'"):
        load(tmp_path, label_column="grade")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_several_columns_are_joined(tmp_path, kind):
    write = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}[kind]
    write(tmp_path / f"train.{kind}", [("a title", "a body")], "title,body" if kind == "csv" else ("title", "body"))
    assert load(tmp_path, text_column="title,body").inputs == ["a title\na body"]
    assert load(tmp_path, text_column="body, title").inputs == ["a body\na title"]
    with pytest.raises(UserError, match="has no column 'head'; it has title, body"):
        load(tmp_path, text_column="head,body")


def test_other_files_are_counted(tmp_path, caplog):
    write_csv(tmp_path / "train.csv", TRAIN)
    (tmp_path / "more.csv").write_text("text\na\n")
    (tmp_path / "README.txt").write_text("about this")
    load(tmp_path)
    assert "1 entry is passed over (not a table named after a split): more.csv" in caplog.text


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


class TestTheCommandLine:
    """A file of columns tweet and mood, and a column of numbers that no class has."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "d").mkdir()
        for split, count in (("train", 60), ("test", 12)):
            rows = [
                f"{('good', 'bad')[i % 2]} {split} {i},more {i},{('yes', 'no')[i % 2]},{i / 8}" for i in range(count)
            ]
            (tmp_path / "d" / f"{split}.csv").write_text("\n".join(["tweet,body,mood,label", *rows]) + "\n")
        (tmp_path / "moods.py").write_text(
            "import torch\nfrom tuition import teachers\n"
            "def moods(texts): return torch.tensor([[4.0 * ('bad' in it), 4.0 * ('good' in it)] for it in texts])\n"
            "def teacher(): return teachers.from_callable(moods, fingerprint='moods-1', name='moods')\n"
        )
        return tmp_path / "d"

    def run(self, *words):
        done = CliRunner().invoke(app, list(words))
        assert done.exception is None, done.exception
        return done.output

    COLUMNS = ("--text-column", "tweet,body", "--label-column", "mood")

    def test_data(self, folder):
        rows = [line.split() for line in self.run("data", "d", *self.COLUMNS).splitlines()]
        assert ["classes", "2"] in rows
        done = CliRunner().invoke(app, ["data", "d"])
        assert "neither a text column" in str(done.exception)
        assert "--text-column" in str(done.exception)

    def test_teach_ask_distill_evaluate_predict(self, folder):
        self.run("teach", "--data", "d", "--model", "bag_8", "--epochs", "1", "--out", "teacher", *self.COLUMNS)
        about = json.loads((folder.parent / "teacher/run.json").read_text())
        assert about["settings"]["text_column"] == "tweet,body"
        self.run("ask", "--data", "d", "--teacher", "moods:teacher", "--calls", "16", *self.COLUMNS)
        said = self.run(
            "distill",
            "--data",
            "d",
            "--teacher",
            "moods:teacher",
            "--calls",
            "16",
            "--student",
            "bag_8",
            "--epochs",
            "1",
            "--out",
            "run",
            *self.COLUMNS,
        )
        assert ["teacher", "calls", "paid", "0"] in [line.split() for line in said.splitlines()]
        assert load_run("run").class_names == ("no", "yes")
        assert ["inputs", "12"] in [
            line.split() for line in self.run("evaluate", "run", "--data", "d", *self.COLUMNS).splitlines()
        ]
        rows = self.run("predict", "run", "d", "--text-column", "tweet,body").splitlines()
        assert rows[0] == "input,class,confidence"
        assert sum("more" in row for row in rows) == 12

    def test_labels_that_nobody_wants_are_not_looked_at(self, folder):
        """The column `label` holds real numbers, which are not classes."""
        given = {"data": "d", "teacher": "teacher", "calls": 8, "text_column": "tweet", "test": None}
        with pytest.raises(UserError, match="holds real numbers"):
            question_of(TransferSettings.of(given), Sources())
        asked = question_of(TransferSettings.of(given | {"labels": False}), Sources())
        assert asked.inputs.labels is None
        assert len(asked.inputs) == 10
        asked = question_of(TransferSettings.of(given | {"label_column": None}), Sources())
        assert asked.inputs.labels is None
