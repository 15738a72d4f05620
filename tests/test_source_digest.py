"""The own source that a function reaches: what changes its digest, what does not, and what is served after an edit."""

import functools
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tuition.source_digest import source_digest
from tuition.teachers import from_callable

MINE = """
import functools, os
import side
from side import scale, SHIFT as shift
FACTOR = 2
OPTIONS = {"power": 1}
calls = 0
def log(function):
    @functools.wraps(function)
    def inner(x, **options):
        return function(x, **options)
    return inner
@log
def answer(x, offset=FACTOR):
    "Answers."
    global calls
    calls += 1
    return scale(x) * FACTOR + shift + side.more(x) + OPTIONS["power"]
class Client:
    "A client."
    rate = 3
    def __init__(self, base):
        self.base, self.cache = base, {}
    def __call__(self, x):
        self.cache[len(self.cache)] = x
        return self.ask(x)
    def ask(self, x):
        return x * self.rate
client = Client(os.getpid())
def made(weight):
    seen, floor = [], 5
    def inner(x):
        seen.append(x)
        return max(x * weight, floor)
    return inner
small = lambda x: x * 2
other = lambda x: client(x)
bound = client.ask
part = functools.partial(answer, offset=4)
nested = made(1.0)
"""
SIDE = (
    "SHIFT = 1\ndef scale(x):\n    return x * 0.5\ndef more(x):\n    return least(x)\ndef least(x):\n    return x - 1\n"
)
REACHING = ("answer", "client", "small", "other", "bound", "part", "nested")
ALONE = "def unused(): return 1\n"


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the two modules from a folder, a new one each time."""
    count = iter(range(100))

    def load(mine: str = MINE, side: str = SIDE) -> ModuleType:
        folder = tmp_path / str(next(count))
        folder.mkdir()
        (folder / "mine.py").write_text(mine)
        (folder / "side.py").write_text(side)
        for name in ("mine", "side"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module("mine")

    return load


def digests(module: ModuleType) -> dict[str, str | None]:
    return {name: source_digest(getattr(module, name)) for name in REACHING}


def test_each_function_has_its_own_and_asking_changes_none(loaded: Any) -> None:
    module = loaded()
    first = digests(module)
    assert None not in first.values()
    assert len({*first.values()}) == len(REACHING) - 2, "a partial is its function, a client is its class's method"
    for name in REACHING:
        getattr(module, name)(3)
    assert digests(module) == first
    assert digests(loaded()) == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2", "# a remark\n\nFACTOR =  2  # two"),
        ('"Answers."', '"Says what it thinks."'),
        ('"A client."\n', "\n"),
        ("max(x * weight, floor)", "max(\n            x * weight,\n            floor,\n        )"),
        ("small =", ALONE + "small ="),
        ("made(1.0)", "made(\n1.0)"),
    ],
)
def test_harmless_edits(loaded: Any, old: str, new: str) -> None:
    assert old in MINE
    assert digests(loaded(MINE.replace(old, new))) == digests(loaded())


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("* FACTOR +", "/ FACTOR +", {"answer", "part"}),
        ("FACTOR = 2", "FACTOR = 3", {"answer", "part"}),
        ('"power": 1', '"power": 2', {"answer", "part"}),
        ("return function(x,", "return -function(x,", {"answer", "part"}),
        ("rate = 3", "rate = 4", {"client", "other", "bound"}),
        ("x * self.rate", "x / self.rate", {"client", "other", "bound"}),
        ("floor = [], 5", "floor = [], 6", {"nested"}),
        ("x * weight", "x / weight", {"nested"}),
        ("small = lambda x: x * 2", "small = lambda x: x * 3", {"small"}),
    ],
)
def test_edits_of_the_module(loaded: Any, old: str, new: str, changed: set[str]) -> None:
    assert old in MINE
    before, after = digests(loaded()), digests(loaded(MINE.replace(old, new)))
    assert {name for name in REACHING if before[name] != after[name]} == changed


@pytest.mark.parametrize(("old", "new"), [("0.5", "0.25"), ("x - 1", "x - 2"), ("SHIFT = 1", "SHIFT = 2")])
def test_edits_of_another_module(loaded: Any, old: str, new: str) -> None:
    before, after = digests(loaded()), digests(loaded(side=SIDE.replace(old, new)))
    assert {name for name in REACHING if before[name] != after[name]} == {"answer", "part"}
    assert digests(loaded(side=SIDE + ALONE)) == before


def test_values_have_no_part(loaded: Any) -> None:
    module = loaded()
    first = digests(module)
    module.calls, module.OPTIONS["power"], module.FACTOR = 70, 9, 8
    module.client.base = "elsewhere"
    module.answer.__wrapped__.__defaults__ = (7,)
    assert digests(module) == first
    assert source_digest(module.made(torch.ones(3))) == source_digest(module.made({"k": 1})) == first["nested"]
    assert source_digest(module.Client(5)) == first["client"]
    assert source_digest(functools.partial(module.answer, offset=5)) == first["part"]


def test_a_module_that_is_loaded_again(loaded: Any) -> None:
    module = loaded()
    first, file = digests(module), Path(str(module.__file__))
    file.write_text(MINE.replace("x * 2", "x * 3 ").replace("FACTOR = 2", "FACTOR = 5").replace("[], 5", "[], 6"))
    assert digests(module) == first, "the code that runs is the old one"
    importlib.invalidate_caches()
    after = digests(importlib.reload(module))
    assert {name for name in REACHING if first[name] != after[name]} == {"answer", "part", "small", "nested"}


def test_a_file_that_was_edited_after_it_was_loaded_is_not_taken_for_the_code(loaded: Any) -> None:
    old = source_digest(loaded().small)
    module, edited = loaded(), MINE.replace("x * 2", "x * 3")
    Path(str(module.__file__)).write_text(edited)
    assert source_digest(module.small) not in (old, source_digest(loaded(edited).small))


def test_code_without_source() -> None:
    def made(text: str, **names: object) -> Any:
        exec(text, names | {"__name__": "__main__"}, names)
        return names["f"]

    first = source_digest(made("def f(x):\n    return x in {'a', 'b'}"))
    assert first == source_digest(made("\n\ndef f(x):\n    return x in {'a', 'b'}"))
    assert first not in (None, source_digest(made("def f(x):\n    return x in {'a', 'c'}")))


def test_functions_of_libraries_have_none() -> None:
    for function in (torch.relu, len, functools.partial(torch.softmax, dim=1), torch.nn.Linear(2, 2), torch.cdist):
        assert source_digest(function) is None
    assert from_callable(torch.relu, fingerprint="v1").fingerprint == "v1"


def test_the_fingerprint_holds_it_and_the_name_does_not(loaded: Any) -> None:
    one, two = (from_callable(loaded(MINE.replace("0", str(i))).answer, fingerprint="v1") for i in (0, 1))
    assert one.fingerprint.startswith("v1; code ")
    assert one.name == two.name == from_callable(loaded().answer, fingerprint="v1", code="").name
    assert from_callable(loaded().answer, fingerprint="v1", code="abc").fingerprint == "v1; code abc"
    assert from_callable(loaded().answer, fingerprint="v1", code="").fingerprint == "v1"


# -- what is served ----------------------------------------------------------------------------------------------------

OWN = """
import side
def answer(inputs):
    open("calls", "a").write("." * len(inputs))
    return side.times(inputs)
"""
ASKING = """
import sys
import torch
from own import answer
from tuition import UserError, data, teachers
from tuition.store import ResponseStore
store, given = sys.argv[1], {} if len(sys.argv) < 3 else {"code": sys.argv[2]}
teacher = teachers.from_callable(answer, fingerprint="v1", **given)
try:
    print(ResponseStore(store).ask(teacher, data.from_tensors(torch.arange(8.0).view(4, 2)), budget=4).accounts)
except UserError as error:
    sys.exit(str(error))
"""


def test_old_answers_of_an_edited_function_are_not_served(tmp_path: Path) -> None:
    own, side, calls = tmp_path / "own.py", tmp_path / "side.py", tmp_path / "calls"
    times = "def times(x):\n    return x * 2\n"
    own.write_text(OWN)
    side.write_text(times)
    (tmp_path / "asking.py").write_text(ASKING)

    def ask(*words: str) -> str:
        command = [sys.executable, "-B", "asking.py", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode in (0, 1)
        assert "Traceback" not in done.stderr, done.stderr
        return (done.stdout + done.stderr).strip()

    assert "4 paid" in ask("stored.db")
    assert "4 paid" in ask("old.db", "")
    own.write_text("# a remark\n" + OWN.replace("    return", "\n    return"))
    side.write_text(times.replace("    return", '    "Twice."\n    return'))
    assert "0 paid, 4 from cache" in ask("stored.db")

    side.write_text(times.replace("x * 2", "x * 3"))
    said = ask("stored.db")
    assert "its code was edited: give it another name to ask again, or" in said
    assert said.count("\n") == 0
    kept = said.partition('code="')[2].partition('"')[0]
    assert len(kept) == 16
    assert "0 paid, 4 from cache" in ask("stored.db", kept)
    said = ask("old.db")
    assert "stored without its code" in said
    assert 'from_callable(..., code="")' in said
    assert "0 paid, 4 from cache" in ask("old.db", "")
    assert calls.read_text() == "." * 8
