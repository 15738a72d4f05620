"""Tables of every kind of file, and the cases in which the builders of `datasets` (5.2) do worse than ours.

Each test of `TestWhereBuildersDoWorse` asserts what ours does; its comment says what the builder does with these files.
"""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tuition import UserError
from tuition.data import load


def picture(path, level=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


class TestWhereBuildersDoWorse:
    def test_imagefolder_sorts_numbers_as_words(self, tmp_path):  # 0, 10, 2
        for name in ("0", "2", "10"):
            picture(tmp_path / "train" / name / "x.png")
        assert load(tmp_path).class_names == ("0", "2", "10")

    def test_imagefolder_leaves_out_a_split_in_capitals(self, tmp_path):  # `Train` is not loaded, nor is it said
        picture(tmp_path / "Train/ant/x.png")
        picture(tmp_path / "test/ant/x.png")
        assert len(load(tmp_path)) == 1

    def test_imagefolder_makes_two_classes_of_one_in_two_spellings(self, tmp_path, caplog):  # Ant, Bee, ant, bee
        for split, names in (("test", ("ant", "bee")), ("train", ("Ant", "Bee"))):
            for name in names:
                picture(tmp_path / split / name / "x.png")
        for split in ("train", "test"):
            pool = load(tmp_path, split=split)
            assert (pool.class_names, pool.labels.tolist()) == (("Ant", "Bee"), [0, 1])
        assert "classes of other letter case are one class: ant with Ant, bee with Bee" in caplog.text

    def test_imagefolder_takes_what_systems_leave_for_a_class(self, tmp_path):  # @eaDir is a class
        picture(tmp_path / "train/ant/x.png")
        picture(tmp_path / "train/@eaDir/x.png")
        assert load(tmp_path).class_names == ("ant",)

    def test_imagefolder_drops_labels_that_one_split_lacks(self, tmp_path):  # no split has labels
        picture(tmp_path / "train/x.png")
        picture(tmp_path / "test/ant/x.png")
        assert load(tmp_path, split="test").class_names == ("ant",)
        assert load(tmp_path).labels is None

    def test_csv_shifts_fields_where_a_comma_is_not_quoted(self, tmp_path):  # text "b", label "x", and so on
        write(tmp_path / "train.csv", "text,label\na,b,x\nb,y\n")
        with pytest.raises(UserError, match=r"row 0 of .*train\.csv \(line 2\) has 3 fields"):
            load(tmp_path)

    def test_csv_reads_words_as_numbers_and_as_nothing(self, tmp_path):  # text None, label 7
        write(tmp_path / "train.csv", "text,label\nNA,007\nfine,x\n")
        pool = load(tmp_path)
        assert (pool.inputs, pool.class_names) == (["NA", "fine"], ("007", "x"))

    def test_csv_renames_the_second_of_two_equal_columns(self, tmp_path):  # text and text.1
        write(tmp_path / "train.csv", "text,text\na,b\n")
        with pytest.raises(UserError, match="two columns 'text'"):
            load(tmp_path)

    def test_json_takes_numbers_for_texts(self, tmp_path):  # texts "a" and 3
        write(tmp_path / "train.jsonl", '{"text": "a"}\n{"text": 3}\n')
        with pytest.raises(UserError, match="something else than text in row 1"):
            load(tmp_path)

    def test_text_keeps_empty_lines(self, tmp_path):  # three texts, one of them empty
        write(tmp_path / "train.txt", "a\n\nb\n")
        assert load(tmp_path).inputs == ["a", "b"]

    def test_parquet_loads_what_is_left_of_a_split(self, tmp_path):  # one file of three, without a word
        parquet(tmp_path / "train-00000-of-00003.parquet", text=["a"])
        with pytest.raises(UserError, match="holds 1 of the 3 files"):
            load(tmp_path)

    def test_words_are_not_classes(self, tmp_path):  # strings, of each split alone
        write(tmp_path / "train.csv", "text,label\na,x\n")
        write(tmp_path / "test.csv", "text,label\na,y\n")
        assert load(tmp_path).class_names == load(tmp_path, split="test").class_names == ("x", "y")


class TestTables:
    def test_tabs(self, tmp_path):
        write(tmp_path / "train.tsv", 'text\tlabel\na, b\tx\n"c\td"\ty\n')
        pool = load(tmp_path)
        assert (pool.inputs, pool.class_names) == (["a, b", "c\td"], ("x", "y"))
        assert load(tmp_path / "train.tsv").digests == pool.digests
        write(tmp_path / "train.tsv", "text\tlabel\na\tb\tx\n")
        with pytest.raises(UserError, match="put fields that hold tabs in double quotes"):
            load(tmp_path)

    def test_other_files_are_named(self, tmp_path):
        write(tmp_path / "train.json", "[]")
        write(tmp_path / "reviews.tsv", "text\na\n")
        with pytest.raises(UserError, match=r"no table or array named after a split .* holds reviews\.tsv, train\.js"):
            load(tmp_path)
        assert load(tmp_path / "reviews.tsv").inputs == ["a"]

    @pytest.mark.parametrize("place", [".", "default", "data"])
    def test_parquet_in_folders_of_splits(self, tmp_path, place):
        parquet(tmp_path / place / "train/0000.parquet", text=["a"], label=["x"])
        parquet(tmp_path / place / "train/0001.parquet", text=["b"], label=["x"])
        parquet(tmp_path / place / "validation/0000.parquet", text=["c"], label=["y"])
        train, validation = load(tmp_path), load(tmp_path, split="val")
        assert (train.inputs, validation.inputs) == (["a", "b"], ["c"])
        assert train.class_names == validation.class_names == ("x", "y")

    def test_a_configuration_of_folders_of_splits(self, tmp_path):
        for name in ("large", "small"):
            parquet(tmp_path / name / "train/0000.parquet", text=[name])
        assert load(tmp_path, config="small").inputs == ["small"]
        with pytest.raises(UserError, match="several configurations; name one of: large, small"):
            load(tmp_path)

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_classes_of_other_letter_case_in_another_split(self, tmp_path, kind):
        for split, labels in (("train", ["Good", "bad"]), ("test", ["good", "BAD"])):
            rows = {"text": ["a", "b"], "label": labels}
            if kind == "parquet":
                parquet(tmp_path / f"{split}.parquet", **rows)
            else:
                write(
                    tmp_path / f"{split}.csv",
                    "text,label\n" + "".join(f"{t},{w}\n" for t, w in zip(*rows.values(), strict=True)),
                )
        for split in ("train", "test"):
            pool = load(tmp_path, split=split)
            assert [pool.class_names[i] for i in pool.labels] == ["Good", "bad"]

    def test_classes_of_other_letter_case_in_one_split_are_two(self, tmp_path):
        write(tmp_path / "train.csv", "text,label\na,x\nb,X\n")
        write(tmp_path / "test.csv", "text,label\na,X\n")
        assert load(tmp_path).class_names == ("X", "x")
        assert load(tmp_path, split="test").labels.tolist() == [0]


class TestTemplates:
    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    def test_columns_in_braces(self, tmp_path, kind):
        row = {"subject": "Hi", "body": "How {are} you"}
        if kind == "csv":
            write(tmp_path / "train.csv", "subject,body\nHi,How {are} you\n")
        elif kind == "jsonl":
            write(tmp_path / "train.jsonl", json.dumps(row))
        else:
            parquet(tmp_path / "train.parquet", **{name: [value] for name, value in row.items()})
        for template in ("{subject}\n{body}!", r"{subject}\n{body}!"):
            assert load(tmp_path, text_column=template).inputs == ["Hi\nHow {are} you!"]
        assert load(tmp_path, text_column="{{{body}}} {body}").inputs == ["{How {are} you} How {are} you"]

    @pytest.mark.parametrize(
        ("template", "says"),
        [
            ("{subject", "is not a template"),
            ("{head}", "has no column 'head'; it has subject, body"),
            ("{}", "has no column ''"),
            ("{{none}}", "names no column"),
        ],
    )
    def test_what_is_not_one(self, tmp_path, template, says):
        write(tmp_path / "train.csv", "subject,body\nHi,you\n")
        with pytest.raises(UserError, match=says):
            load(tmp_path, text_column=template)


class TestListsOfImages:
    def make(self, folder, rows="images/a.png,ant\nimages/b.png,bee\n", header="path,label"):
        picture(folder / "images/a.png", 1)
        picture(folder / "images/b.png", 2)
        write(folder / "train.csv", f"{header}\n{rows}")

    def levels(self, pool):
        return pool.inputs[:, 0, 0, 0].tolist()

    def test_paths_and_labels(self, tmp_path):
        self.make(tmp_path / "d")
        for place in (tmp_path / "d", tmp_path / "d/train.csv"):
            pool = load(place)
            assert (self.levels(pool), pool.labels.tolist(), pool.class_names) == ([1, 2], [0, 1], ("ant", "bee"))
        picture(tmp_path / "d/images/b.png", 7)  # the cache sees that a picture has changed
        assert self.levels(load(tmp_path / "d")) == [1, 7]

    def test_columns_of_other_names(self, tmp_path):
        self.make(tmp_path, header="where,what")
        with pytest.raises(UserError, match="pass text_column or image_column"):
            load(tmp_path)
        pool = load(tmp_path, image_column="where", label_column="what")
        assert pool.class_names == ("ant", "bee")

    def test_parquet(self, tmp_path):
        self.make(tmp_path)
        (tmp_path / "train.csv").unlink()
        parquet(tmp_path / "train.parquet", file_name=["images/b.png"], label=["bee"])
        assert self.levels(load(tmp_path)) == [2]

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ("../x.png,ant", "image in row 2 of .* is a path that leads out of the data folder"),
            ("images/none.png,ant", r"cannot read .*images/none\.png \(No such file"),
            (",ant", "is not a regular file but a folder"),
            ("images/a.png,", "1 rows of .* have no label"),
        ],
    )
    def test_rows_that_cannot_be_used(self, tmp_path, row, says):
        self.make(tmp_path, f"images/a.png,ant\nimages/b.png,bee\n{row}\n")
        with pytest.raises(UserError, match=says):
            load(tmp_path)
