"""Bad inputs through the command line: each gets one sentence and exit code 2; nothing is paid, nothing is lost.

`python tests/test_bad_inputs.py` prints the table of what was tried and what was said.
"""
# ruff: noqa: E501 - the table of cases is easier to read in long lines

import contextlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tuition import ResponseStore, data, teachers
from tuition.cli import main as cli
from tuition.training import distill, train_teacher
from tuition.training.callbacks import Shown

# The user's own module, in the folder where the commands are given.
USER = """
import torch
from torch import nn
from tuition import teachers

class Constant(nn.Module):
    def __init__(self, classes=10, value=0.0):
        super().__init__()
        self.answer = nn.Parameter(torch.full((classes,), value))

    def forward(self, inputs):
        return self.answer.expand(len(inputs), -1)

def seven(): return Constant(7)
def nan(): return Constant(10, float("nan"))
def reader_of_colours(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))
def maps(): return nn.Conv2d(1, 10, 3)
def seven_classes(num_classes): return Constant(7)
def needy(width): return Constant(width)
def text(): return "the capital of France"
def remote_nan():
    return teachers.from_callable(lambda x: {"logits": torch.full((len(x), 10), torch.nan)}, fingerprint="1", name="nan")
number = 3
"""

PAID = 24  # calls in the store that must not change
DISTILL = "distill --teacher teacher --student cnn_4 --epochs 1 --calls 16 "


@dataclass(frozen=True)
class Case:
    """What is wrong, the command, what the sentence must say, and how the folder is made wrong first."""

    what: str
    command: str
    says: str
    spoil: Callable[[], object] = lambda: None
    pays: int = 0  # a remote teacher is paid for useless answers


def build(folder: Path) -> None:
    """A folder with a taught teacher, 24 paid answers, runs done and unfinished, data of several kinds."""
    (folder / "user.py").write_text(USER)
    pool = data.load("digits")
    test = data.load("digits", split="test")[:20]
    taught = train_teacher("cnn_4", pool[:64], validation=pool[64:84], test=test, epochs=1, out=folder / "teacher")
    train_teacher("cnn_4", pool[:64], validation=pool[64:84], seed=9, epochs=1, out=folder / "other" / "teacher")
    preprocess = taught.student.preprocess
    teacher = teachers.from_torch(
        taught.student.model, name="teacher", mean=preprocess.mean.tolist(), std=preprocess.std.tolist()
    )
    transfer = ResponseStore(str(folder / "responses.db")).ask(teacher, pool.sample(PAID, seed=77), budget=PAID)
    distill("cnn_4", transfer, "kd", epochs=1, out=folder / "done")
    with contextlib.suppress(InterruptedError):
        distill(
            "cnn_4",
            transfer,
            "kd",
            epochs=2,
            out=folder / "unfinished",
            checkpoint_seconds=0.0,
            callbacks=[Shown(_stop, 2)],
        )
    shutil.copytree(folder / "done", folder / "weightless")
    (folder / "weightless" / "student.safetensors").unlink()
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter1.txt").write_text("years of work")
    (folder / "letter.txt").write_text("Dear reader")
    for split in ("train", "test"):
        for kind in ("cats", "dogs"):
            (folder / "pets" / split / kind).mkdir(parents=True)
            for i in range(30 if split == "train" else 4):
                Image.fromarray(np.full((8, 8), 3 * i, np.uint8)).save(folder / "pets" / split / kind / f"{i}.png")
    (folder / "empty").mkdir()


def _stop(done: int, total: int, figures: object) -> None:
    if done == 2:
        raise InterruptedError


def arrays(**wrong: object) -> Callable[[], None]:
    """A data set of arrays, with something wrong in it."""

    def write() -> None:
        good = {"inputs": np.zeros((40, 1, 8, 8), np.uint8), "labels": np.arange(40) % 10}
        Path("arrays").mkdir()
        for split in ("train", "test"):
            np.savez(f"arrays/{split}.npz", **{k: v for k, v in (good | wrong).items() if v is not None})

    return write


def damage(path: str, at: int = 100) -> Callable[[], None]:
    def write() -> None:
        content = bytearray(Path(path).read_bytes())
        content[at : at + 64] = bytes(64 * [0x5A])
        Path(path).write_bytes(content)

    return write


def put(path: str, content: str = "", size: int | None = None) -> Callable[[], None]:
    """A text file, or one cut to a size."""

    def write() -> None:
        if size is None:
            Path(path).write_text(content)
        else:
            Path(path).write_bytes(Path(path).read_bytes()[:size])

    return write


def picture(size: int, path: str = "picture.png", mode: str = "L") -> Callable[[], None]:
    return lambda: Image.new(mode, (size, size)).save(path)


ARRAYS = DISTILL.replace("distill", "distill --data arrays")
FULL, READ_ONLY = "full", "read-only"  # folders that `disks` mounts

CASES = [
    # data
    Case("a folder without images", DISTILL + "--data empty", "holds no images in its train split, and no table"),
    Case("a data set misspelt", DISTILL + "--data digist", r"the data 'digist' were not found \(did you mean digits"),
    Case("a truncated image", DISTILL + "--data pets", r"cannot read the image .*dogs/3\.png",
         put("pets/train/dogs/3.png", size=45)),
    Case("a text file called .png", DISTILL + "--data pets", r"cannot read the image .*cats/new\.png",
         put("pets/train/cats/new.png", "no picture")),
    Case("images of several sizes", DISTILL + "--data pets", "images differ in size .*; pass a size",
         picture(9, "pets/train/cats/new.png")),
    Case("labels out of range", ARRAYS, "labels of arrays train run from 0 to 9, but class indices run from 0 to 2",
         arrays(class_names=np.array(["a", "b", "c"]))),
    Case("negative labels", ARRAYS, "run from -1 to 8", arrays(labels=np.arange(40) % 10 - 1)),
    Case("labels that are names", ARRAYS, "labels are n class indices, not names", arrays(labels=np.array(["cat"] * 40))),
    Case("fewer labels than inputs", ARRAYS, "40 inputs but 39 labels", arrays(labels=np.zeros(39, int))),
    Case("arrays without inputs", ARRAYS, "no array named inputs", arrays(inputs=None)),
    Case("images that are floats", ARRAYS, "images are uint8", arrays(inputs=np.zeros((40, 1, 8, 8)))),
    Case("channels last", ARRAYS, "move the channels first", arrays(inputs=np.zeros((40, 8, 8, 3), np.uint8))),
    Case("vectors with NaN", ARRAYS, "NaN or infinity", arrays(inputs=np.full((40, 3), np.nan))),
    Case("a damaged array file", ARRAYS, r"cannot read .*train\.npz",
         lambda: (arrays()(), put("arrays/train.npz", size=300)())),
    Case("a damaged parquet file", DISTILL + "--data empty", "cannot read the parquet files",
         put("empty/train-00000-of-00001.parquet", "PAR1 and no more")),
    Case("no test split", DISTILL + "--data pets", r"no split 'test'; choose one of: train \(or --set test=null",
         lambda: shutil.rmtree("pets/test")),
    Case("a split misspelt", "evaluate done --data digits --split tset", "no split 'tset'; choose one of: train, test"),
    # data, teacher and student that do not fit each other
    Case("a teacher of 7 classes for data of 10", DISTILL + "--teacher user:seven", "answers with 7 classes, but .* 10"),
    Case("the same, asked alone", "ask --calls 16 --teacher user:seven", "answers with 7 classes, but .* has 10"),
    Case("a teacher of colour images for grey ones", DISTILL + "--teacher user:reader_of_colours",
         r"the teacher cannot answer inputs of digits train \(the model failed with RuntimeError"),
    Case("a teacher of 8x8 for data of 12x12", ARRAYS, "the teacher cannot answer inputs", arrays(inputs=np.zeros((40, 3, 12, 12), np.uint8))),
    Case("a teacher that returns maps", DISTILL + "--teacher user:maps", r"must return logits of shape \(n, classes\)"),
    Case("a teacher that answers NaN", DISTILL + "--teacher user:nan", "answers a blank input with NaN or infinity"),
    Case("the same, asked alone", "ask --calls 16 --teacher user:nan", "answers a blank input with NaN or infinity"),
    Case("a remote teacher that answers NaN", DISTILL + "--teacher user:remote_nan",
         "answered 1 of 1 inputs with NaN or infinity", pays=1),
    Case("a student of 7 classes for data of 10", DISTILL + "--student user:seven_classes", "7 classes, but the task has 10"),
    Case("test images of another size", ARRAYS + "--teacher user:seven", r"not \(1, 12, 12\)|takes inputs of shape",
         lambda: (arrays(labels=np.arange(40) % 7)(),
                  np.savez("arrays/test.npz", inputs=np.zeros((9, 1, 12, 12), np.uint8), labels=np.arange(9) % 7))),
    # teachers
    Case("a teacher's folder that is not there", DISTILL + "--teacher teachers/big", "teachers/big is not the folder of a run"),
    Case("an unfinished teacher", DISTILL + "--teacher unfinished", "is not finished; give its command again to finish it"),
    Case("a teacher's module that is not there", DISTILL + "--teacher nowhere:teacher", "cannot be imported .* on PYTHONPATH"),
    Case("a teacher's factory that is not there", DISTILL + "--teacher user:eight", "user has no function or class 'eight'"),
    Case("a factory that makes no teacher", DISTILL + "--teacher user:text", "returned str, not a teacher"),
    Case("a factory that is a number", DISTILL + "--teacher user:number", "user has no function or class 'number'"),
    Case("no teacher", "ask --calls 16", "name a teacher with --teacher: a folder made by `tuition teach`"),
    Case("another teacher of the same name", DISTILL + "--teacher other/teacher",
         r"the name 'teacher' stands for another teacher in this store \(stored: weights"),
    # calls and budget
    Case("budget 0", DISTILL + "--budget 0", "16 new calls do not fit in the budget of 0 .* nothing was asked"),
    Case("a budget that is used up", DISTILL + f"--budget {PAID}", f"do not fit in the budget of {PAID}"),
    Case("a negative budget", DISTILL + "--budget -1", "the setting budget cannot be -1"),
    Case("more calls than inputs", DISTILL + "--calls 2000", "do not fit in the 1297 .*; choose at most 1037 calls"),
    Case("no calls", DISTILL + "--calls 0", "the setting calls cannot be 0"),
    Case("one call, which makes no batch", DISTILL + "--calls 1", "a student needs at least 2 calls"),
    # names
    Case("a model misspelt", DISTILL + "--student wrn_16_", r"'wrn_16_' is not a model \(nearest: .*wrn_16_2"),
    Case("a depth that cannot be", DISTILL + "--student wrn_17_2", "the depth must be 6 n . 4"),
    Case("a method misspelt", DISTILL + "--method cdk", "the method 'cdk' was not found; did you mean .*ckd"),
    Case("a method's setting misspelt", DISTILL + "--set options={ancor:\\ 1}", "no setting 'ancor'; did you mean anchor"),
    Case("a student's module that is not there", DISTILL + "--student nowhere:net", "nowhere:net cannot be imported"),
    Case("a student that needs more arguments", DISTILL + "--student user:needy", "needs more than num_classes"),
    Case("a model misspelt in `models`", "models resnet33", "'resnet33' is not a model .*resnet32"),
    Case("a method misspelt in `methods`", "methods rdk", "the method 'rdk' was not found; did you mean rkd"),
    # settings and the command line
    Case("a key misspelt in YAML", DISTILL + "--config c.yaml", "no setting 'learning_rte'; did you mean learning_rate",
         put("c.yaml", "learning_rte: 0.1\n")),
    Case("YAML that is none", DISTILL + "--config c.yaml", "c.yaml is not valid YAML near line 2", put("c.yaml", "a: [1\nb: 2")),
    Case("YAML that is a list", DISTILL + "--config c.yaml", "must hold 'setting: value' lines", put("c.yaml", "- 1\n- 2")),
    Case("a YAML file that is not there", DISTILL + "--config c.yaml", "cannot read c.yaml: no such file"),
    Case("text for a number in YAML", DISTILL + "--config c.yaml", "momentum cannot be 'high'", put("c.yaml", "momentum: high")),
    Case("--set misspelt", DISTILL + "--set epoch=3", "no setting 'epoch'; did you mean epochs"),
    Case("--set without a sign", DISTILL + "--set epochs", "--set takes NAME=VALUE, not 'epochs'"),
    Case("--set with broken YAML", DISTILL + "--set options={", "is not valid YAML after the sign"),
    Case("a value out of range", DISTILL + "--set learning_rate=-1", "learning_rate cannot be -1"),
    Case("a value that is not a choice", DISTILL + "--set schedule=cosin", "'cosin': input should be 'cosine', 'stages' or "),
    Case("text for a number", DISTILL + "--calls many", "the setting calls cannot be 'many'"),
    Case("an option misspelt", DISTILL + "--studnet cnn_4", r"No such option: --studnet .*--student"),
    Case("a command misspelt", "distil", "No such command 'distil'.*distill"),
    Case("an argument left out", "predict", "Missing argument"),
    Case("stratified without labels", DISTILL + "--set select=stratified --data unsorted --set test=null", "a stratified draw needs labels",
         lambda: shutil.copytree("pets/train/cats", "unsorted")),
    Case("a seed out of range", DISTILL + "--seed -3", "the setting seed cannot be -3"),
    Case("a device that is not there", DISTILL + "--set device=cuda:7", "the device 'cuda:7' is not available; use device: auto or cpu"),
    # run folders
    Case("a run of other settings", DISTILL + "--out done", "done holds a run with other settings .*; choose another folder"),
    Case("a folder of other things", DISTILL + "--out thesis", "thesis exists and is not a run; choose another folder"),
    Case("a file for a folder", DISTILL + "--out letter.txt", "letter.txt exists and is not a run"),
    Case("a damaged record", DISTILL + "--out done", r"done/run\.json cannot be read .*; restore it", put("done/run.json", "{")),
    Case("an unfinished run", "predict unfinished digits", "is not finished; give its command again"),
    Case("a folder that is not a run", "predict thesis digits", "thesis is not the folder of a run"),
    Case("a run without weights", "predict weightless digits", "student.safetensors cannot be read: No such file"),
    Case("damaged weights", "predict done digits", "holds no weights that can be read", damage("done/student.safetensors", 0)),
    # predict, evaluate, export, data
    Case("text instead of a picture", "predict done letter.txt", "takes images or vectors, not text"),
    Case("nothing to predict", "predict done nothing", "the data 'nothing' were not found"),
    Case("data of more classes", "evaluate done --data arrays", "labels run to 39, but the model knows 10 classes",
         arrays(labels=np.arange(40))),
    Case("data without labels", "evaluate done --data arrays", "evaluation needs labels", arrays(labels=None)),
    Case("an export to where a file is", "export done letter.txt/student.onnx", "cannot write to letter.txt: file exists"),
    Case("predictions to where a file is", "predict done digits --out letter.txt/p.csv", "cannot be written"),
    # stores
    Case("a store that is none", DISTILL + "--store letter.txt", "letter.txt cannot be used .*not a database"),
    Case("a damaged store", DISTILL, "responses.db cannot be used|is damaged", damage("responses.db", 0)),
    Case("a store in no folder", DISTILL + "--store no/where.db", "unable to open"),
    Case("a folder for a store", DISTILL + "--store thesis", "thesis is a folder; name a file to write"),
    Case("a database of another kind", DISTILL + "--store mysql://host/db", "SQLite files or PostgreSQL databases, not mysql"),
    Case("no store to look at", "store usage nothing.db", "the store nothing.db was not found"),
    Case("paid answers pruned by mistake", "store prune responses.db --teacher teacher", "24 calls were paid; give --yes"),
    Case("a teacher unknown to the store", "store export responses.db new --teacher big", "nothing to export of big"),
    Case("an import of nothing", "store import responses.db thesis", "holds no complete export"),
    # disks
    Case("a full disk for the run", DISTILL + f"--out {FULL}/run", "cannot write to full/run: no space left on device"),
    Case("a full disk for the store", DISTILL + f"--store {FULL}/r.db", "is full|No space|disk I/O|cannot be used"),
    Case("a read-only disk for the run", DISTILL + f"--out {READ_ONLY}/run", "cannot write to read-only/run: read-only file system"),
    Case("a read-only disk for the store", DISTILL + f"--store {READ_ONLY}/r.db", "unable to open|readonly"),
]  # fmt: skip


def record(**changes: object) -> Callable[[], None]:
    """run.json of the run that is done, with other values; ... takes a field out. student__crop is a field below."""

    def write() -> None:
        path = Path("done/run.json")
        found = json.loads(path.read_text())
        for names, value in changes.items():
            *above, name = names.split("__")
            place = found
            for each in above:
                place = place[each]
            if value is ...:
                del place[name]
            else:
                place[name] = value
        path.write_text(json.dumps(found))

    return write


def study(text: str) -> Callable[[], None]:
    return put("s.yaml", f"pairs: [{{teacher: cnn_4, student: cnn_4}}]\nmethods: [kd]\n{text}\n")


STUDY = "study s.yaml --out s --dry-run"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
INVALID, DAMAGED = r"c\.yaml is not valid YAML", r"done/run\.json (is damaged|cannot be read)"
# Made up by hand, a kind or two a line: each of them gave a traceback, a wrong sentence or a wait at some time.
CRAFTED = [
    # numbers on the command line
    *(Case(f"calls of {value}", DISTILL + f"--calls {value}", says) for value, says in (
        ("-1", "calls cannot be -1"), ("1e9", "do not fit in the 1297"), ("1000000000", "do not fit in the 1297"),
        ("9" * 60, "calls|do not fit"), ("nan", "calls cannot be nan"))),
    *(Case(f"a price of {value}", f"ask --calls 4 --teacher teacher --cost-per-call={value}", "cost|Invalid value") for value in ("-1", "nan", "inf", "x")),
    *(Case(f"{name} of {value}", f"models cnn_4 --{name} {value}", f"Invalid value for '--{name}'")
      for name in ("classes", "channels", "size") for value in ("0", "9" * 12)),
    *(Case(f"a net {name}", f"models {name}", "cnn_|is not a model|wrn|resnet") for name in ("cnn_0", "cnn_x", "wrn_10_0", "resnet")),
    # settings of every kind
    *(Case(f"--set {name}={value}", DISTILL + f"--set {name}={value}", says) for name, value, says in (
        ("learning_rate", "nan", "learning_rate cannot be"), ("learning_rate", "1e999", "learning_rate"), ("learning_rate", "[]", r"cannot be \[\]"),
        ("batch_size", "true", "batch_size cannot be true"), ("batch_size", "2001-01-01", "batch_size cannot be"), 
        ("options", "3", "options cannot be 3"), ("options", "[1]", "options cannot be"), ("test", "3", "test cannot be 3"),
        ("store", "[1]", "store cannot be"), ("size", "7", "size cannot be 7"),  ("seed", "0.5", "seed cannot be"),
        ("device", "disk", "the device 'disk' is not available"), ("augment", "maybe", "augment cannot be"), ("data", "!!binary\\ aGk=", "data"),
        ("", "1", "no setting|NAME=VALUE"), ("__class__", "1", "no setting '__class__'"),
        ("data", "&a\\ [*a]", "not valid YAML|cannot be|nested"), ("concurrency", "0", "concurrency cannot be 0"), ("view", "x", "view cannot be 'x'"))),
    # YAML
    *(Case(f"YAML: {what}", DISTILL + "--config c.yaml", says, put("c.yaml", text)) for what, text, says in (
        ("aliases that grow", LAUGHS, INVALID), ("an alias of itself", "options: &a {x: *a}", INVALID), ("a key twice", "epochs: 1\nepochs: 2", r"line 2 \(a key appears twice\)"),
        ("deep lists", "a: " + "[" * 3000, INVALID), ("deep mappings", "options: " + "{a: " * 60 + "}" * 60, INVALID), ("a tab", "data:\n\tdigits: 1", INVALID),
        ("two documents", "epochs: 1\n---\nepochs: 2", INVALID), ("code", "data: !!python/object/apply:os.system [ls]", INVALID), ("a date", "data: 2001-01-01", "data cannot be"),
        ("no such date", "data: 2001-45-45", INVALID), ("a word", "hello", "must hold 'setting: value' lines"), ("a number for a key", "1: 2", "no setting 1"),
        ("a zero byte", 'data: "a\\0b"', "data holds a zero byte"), ("half a character", 'data: "\\ud800"', "half a character"), ("a list for a key", "? [a]\n: 1", INVALID),
        ("a merge of a number", "<<: 1", INVALID), ("a long value", f"data: {'x' * 100_000}", "no data set|too long|x"))),
    Case("YAML: bytes", DISTILL + "--config c.yaml", INVALID, lambda: Path("c.yaml").write_bytes(bytes(range(256)))),
    Case("YAML: a folder", DISTILL + "--config thesis", "cannot read thesis: is a directory"),
    Case("YAML: without end", DISTILL + "--config /dev/zero", "more than 10,000,000 bytes"),
    # studies
    *(Case(f"a study with {text}", STUDY, says, study(text)) for text, says in (
        ("axes: {seed: 3}", "axes.seed cannot be 3"), ("axes: {sead: [3]}", "no setting 'sead'; did you mean seed"), ("axes: {seed: []}", "seed of the study has no value"),
        ("variants: 3", "variants of a study"), ("extends: 3", "extends of .* names a study, not a int"), ("settings: {epochs: x}", "epochs cannot be 'x'"),
        ("settings: {data: 3}", "data cannot be 3"), ("settings: {options: 3}", "the setting options cannot be 3"), ("choose: {candidates: {learning_rate: 3}}", "cannot be 3"),
        ("choose: {candidates: {learning_rate: []}}", "learning_rate of the study has no value"),
        (f"axes: {{seed: {list(range(400))}, calls: {list(range(10, 400))}}}", "156,000 runs, and at most 100,000"))),
    Case("a study in a file", "study figure2-wrn --out letter.txt --data digits --smoke", "letter.txt"),
    # places
    *(Case(f"a folder to write {what} to", command, says) for what, command, says in (
        ("predictions", "predict done digits --out thesis", "thesis is a folder; name a file"),         ("predictions, the root,", "predict done digits --out /", "/ is a folder"))),
    Case("a store without a file's name", "ask --calls 4 --teacher teacher --store sqlite://", "give its plain path"),
    Case("a password in a query", "ask --calls 4 --teacher teacher --store postgresql://u@h/db?password=x", r"~/\.pgpass"),
    Case("a port that is not a number", "store usage postgresql://u@h:port/db", "port that is not a number"),
    Case("a report on bytes", "report r --out o", "r/runs.csv", lambda: (Path("r").mkdir(), Path("r/runs.csv").write_bytes(b"\xff\xfe\n"))),
    Case("a report on zero bytes", "report r --out o", "holds zero bytes", lambda: (Path("r").mkdir(), Path("r/runs.csv").write_bytes(bytes(9)))),
    Case("a report on another table", "report r --out o", "lacks the column 'key'", lambda: (Path("r").mkdir(), Path("r/runs.csv").write_text("a,b\n1,2\n"))),
    # run.json
    *(Case(f"run.json: {field} is {value}", "predict done digits", DAMAGED if says is None else says, record(**{field: value})) for field, value, says in (
        ("student", ..., None), ("student", 3, None), ("student", [], None), ("student__input_shape", "x", None), ("student__input_shape", [], None), ("student__input_shape", [-1], None),
        ("student__class_names", 3, None), ("student__crop", {"a": 1}, None), ("student__weights", "../x", None), ("student__model", 3, None), ("student__output", "x", None),
        ("settings", ..., None), ("settings", 3, None), ("accounts", [], None), ("status", 3, "not finished"))),
]  # fmt: skip


def damaged_checkpoint() -> Case:
    """The same command as that of a run that is not finished, whose checkpoint was damaged since."""

    def spoil() -> None:
        assert call(DISTILL + "--epochs 2 --out once")[0] == 0
        record = Path("once/run.json")
        record.write_text(record.read_text().replace('"status": "done"', '"status": "running"'))
        shutil.copy("unfinished/checkpoint.bin", "once/checkpoint.bin")
        damage("once/checkpoint.bin")()

    return Case(
        "a damaged checkpoint",
        DISTILL + "--epochs 2 --out once",
        r"the checkpoint once/checkpoint\.bin is damaged; delete it",
        spoil,
    )


ALL = [*CASES, *CRAFTED, damaged_checkpoint()]


def call(command: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `tuition COMMAND`, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    arguments, path = sys.argv, list(sys.path)
    sys.modules.pop("user", None)  # of another test in this process
    sys.argv = ["tuition", *re.findall(r"(?:\\ |\S)+", command)]
    sys.argv = [argument.replace("\\ ", " ") for argument in sys.argv]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main()
    finally:
        sys.argv, sys.path[:] = arguments, path
        sys.modules.pop("user", None)
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def disks(folder: Path) -> Iterator[None]:
    """A full and a read-only disk, mounted in the folder.

    Raises:
        PermissionError: this user may not mount.
    """
    mounted = []
    try:
        for name, options in ((FULL, "size=16k"), (READ_ONLY, "ro")):
            (folder / name).mkdir()
            made = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder / name], capture_output=True, text=True
            )
            if made.returncode != 0:
                raise PermissionError(made.stderr)
            mounted.append(folder / name)
        (folder / FULL / "filler").write_bytes(bytes(16384))
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=True)


@contextlib.contextmanager
def world(built: Path, folder: Path) -> Iterator[None]:
    """The user stands in a copy of what was built."""
    shutil.copytree(built, folder, dirs_exist_ok=True)
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def contents(folder: Path) -> dict[str, bytes]:
    """What lies in the folder, but for databases, whose bytes may change when they are looked at."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".db" not in path.name and path.suffix != ".pyc")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def listed(folder: Path) -> set[str]:
    """All folders and files, stores among them; but for what Python and SQLite leave beside a file that they read."""
    passing = (".pyc", "-wal", "-shm", "__pycache__", "full/r.db")  # the last is empty
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not str(path).endswith(passing)}


def books() -> tuple[int, int]:
    """Calls paid and answers kept in the store; (-1, -1) if it is damaged."""
    try:
        with contextlib.closing(sqlite3.connect("responses.db")) as database:
            (paid,) = database.execute("SELECT sum(paid) FROM tuition_teachers").fetchone()
            (kept,) = database.execute("SELECT count(*) FROM tuition_responses").fetchone()
            return paid, kept
    except sqlite3.DatabaseError:
        return -1, -1


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder)
    return folder


def attempt(case: Case) -> tuple[int, str, str]:
    """Spoil what the case spoils, give its command, and see that nothing was paid and nothing lost."""
    case.spoil()
    before, paid, places = contents(Path()), books(), listed(Path())
    code, out, err = call(case.command)
    after = contents(Path())
    if case.pays == 0:
        assert listed(Path()) - places == set(), "something was left behind"
    assert {name: after.get(name) for name in before} == before, "files were changed"
    assert not any("run" in name for name in after.keys() - before.keys()), "a run was begun"
    assert books() == (paid[0] + case.pays, paid[1]), "something was paid"
    return code, out, err


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.what.replace(" ", "-"))
def test_bad_input(case: Case, built: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(world(built, tmp_path))
        if FULL in case.command or READ_ONLY in case.command:
            try:
                stack.enter_context(disks(tmp_path))
            except PermissionError as error:
                pytest.skip(f"mounting a small disk is not allowed here: {error}")
        code, out, err = attempt(case)
    assert code == 2, err
    assert out == ""
    errors = [line for line in err.splitlines() if not line.startswith("Note: ")]
    assert len(errors) == 1, "one line"
    assert errors[0].startswith("Error: ")
    assert err.rstrip("\n")[-1] in ".?", "a sentence"
    assert "Traceback" not in err
    assert re.search(case.says, err), err


def test_there_are_many() -> None:
    assert len(ALL) >= 30
    assert len({case.command + case.what for case in ALL}) == len(ALL)


@pytest.mark.parametrize("what", ["a method misspelt", "a teacher that answers NaN"])
def test_in_a_process_of_its_own(what: str, built: Path, tmp_path: Path) -> None:
    """As a user gives it: the script, its exit code, and nothing else on the terminal."""
    case = next(case for case in ALL if case.what == what)
    with world(built, tmp_path):
        done = subprocess.run(
            [Path(sys.executable).with_name("tuition"), *case.command.split()], capture_output=True, text=True
        )
        assert books() == (PAID, PAID)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(case.says, done.stderr)
    assert done.stderr.count("\n") == 1


def table() -> str:
    """What was tried and what was said, as Markdown."""
    import tempfile

    torch.set_num_threads(1)
    rows = [
        "# Bad inputs, and what is said to them",
        "",
        "Made by `python tests/test_bad_inputs.py`; the test of the same name sees that each gets one sentence and exit",
        "code 2, that nothing is paid (but where a remote teacher answers NaN, which no one can know before), and that no",
        f"file is changed. `distill ...` stands for `{DISTILL.strip()}`, whose options later ones override.",
        "",
        "| # | what is wrong | command | what `tuition` says (exit code) |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as place:
        os.environ["TUITION_CACHE"] = str(Path(place, "cache"))
        built = Path(place, "built")
        built.mkdir()
        build(built)
        for number, case in enumerate(ALL, start=1):
            folder = Path(place, str(number))
            with world(built, folder), disks(folder):
                code, _, err = attempt(replace(case))
            said = " ".join(err.replace(str(folder.resolve()) + "/", "").split()).replace("|", "\\|")
            command = case.command.replace(DISTILL, "distill ... ").replace(ARRAYS, "distill ... --data arrays")
            rows.append(f"| {number} | {case.what} | `{command.strip()}` | {said} ({code}) |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
