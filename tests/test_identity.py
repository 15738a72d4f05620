"""Own code and values as digests: what changes them, what does not, and what is served of an edited teacher."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tuition import UserError
from tuition.identity import code_digest, content_digest, state_digest
from tuition.teachers import from_torch

CALLABLE = """
import functools
import torch
import helper
from helper import scale, LABELS
CONSTANT = 3
class Client:
    "A client."
    factor = 2.0
    def __init__(self, base):
        self.base, self.calls = base, 0
    def send(self, x):
        self.calls += 1
        return x * self.factor + self.base
client = Client(1.0)
def decorated(function):
    @functools.wraps(function)
    def inner(x):
        return function(x)
    return inner
@decorated
def answer(x, power=1):
    "Answers."
    from late import shift
    calls.append(1)  # a remark
    return client.send(x.flatten(1)[:, :3] ** power) * CONSTANT + scale(x) + helper.offset() + shift() + len(LABELS)
calls = []
small = lambda x: x.flatten(1)[:, :3] * 2
"""
HELPER = (
    "LABELS = ('a', 'b')\ndef scale(x):\n    return 0.5\ndef offset():\n    return 0.25\ndef unused():\n    return 1\n"
)
LATE = "import later\ndef shift():\n    return later.SHIFT\n"
LATER = "SHIFT = 0.125\n"
PROGRAM = """
import sys
sys.path.insert(0, ".")
import mine
from tuition.identity import code_digest
first = code_digest(mine.answer)
import torch
mine.answer(torch.zeros(2, 4))
mine.answer(torch.ones(2, 4))
assert code_digest(mine.answer) == first, "asking changes nothing"
print(first, code_digest(mine.small), code_digest(torch.relu), code_digest(len))
"""


def digests(folder: Path, **files: str) -> list[str]:
    texts = {"mine": CALLABLE, "helper": HELPER, "late": LATE, "later": LATER} | files
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    done = subprocess.run([sys.executable, "-B", "-c", PROGRAM], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return digests(tmp_path_factory.mktemp("before"))


def test_only_own_code_has_a_digest(before: list[str]) -> None:
    assert before[2:] == ["None", "None"]
    assert len(set(before[:2])) == 2


HARMLESS = {
    "a comment, a docstring and layout": {
        "mine": CALLABLE.replace("  # a remark", "  # another").replace('"Answers."', '"Gives answers."\n\n')
    },
    "a function that is not used": {"helper": HELPER.replace("return 1", "return 2")},
    "a line above": {"mine": "import os\n" + CALLABLE},
}
HARMFUL = {
    "the function": {"mine": CALLABLE.replace("* CONSTANT", "/ CONSTANT")},
    "a default": {"mine": CALLABLE.replace("power=1", "power=2")},
    "a global": {"mine": CALLABLE.replace("CONSTANT = 3", "CONSTANT = 4")},
    "a class that it uses": {"mine": CALLABLE.replace("self.factor +", "self.factor -")},
    "a class attribute": {"mine": CALLABLE.replace("factor = 2.0", "factor = 2.5")},
    "an attribute of an object": {"mine": CALLABLE.replace("Client(1.0)", "Client(1.5)")},
    "a function of another module": {"helper": HELPER.replace("0.5", "0.75")},
    "a function reached through a module": {"helper": HELPER.replace("0.25", "0.75")},
    "a constant of another module": {"helper": HELPER.replace("('a', 'b')", "('a', 'c')")},
    "a module imported while it runs": {"late": LATE.replace("later.SHIFT", "later.SHIFT * 2")},
    "a module that that one imports": {"later": "SHIFT = 0.5\n"},
}


@pytest.mark.parametrize("what", HARMLESS)
def test_edits_that_change_nothing(tmp_path: Path, before: list[str], what: str) -> None:
    assert digests(tmp_path, **HARMLESS[what])[:2] == before[:2]


@pytest.mark.parametrize("what", HARMFUL)
def test_edits_that_may_change_answers(tmp_path: Path, before: list[str], what: str) -> None:
    found = digests(tmp_path, **HARMFUL[what])
    assert found[0] != before[0]
    assert found[1] == before[1], "the lambda does not use it"


def test_lambdas_of_one_line_are_told_apart() -> None:
    one, two, same = lambda x: x + 1, lambda x: x + 2, lambda x: x + 1
    assert code_digest(one) == code_digest(same)
    assert code_digest(one) != code_digest(two)


def test_code_without_source_is_known_by_its_bytecode() -> None:
    def made(text: str) -> object:
        names: dict[str, object] = {"__name__": "nowhere"}
        exec(text, names)
        return names["f"]

    first = code_digest(made("def f(x):\n    return [y * 2 for y in x]"))
    assert first == code_digest(made("def f(x):\n\n    return [y * 2 for y in x]"))
    assert first != code_digest(made("def f(x):\n    return [y * 3 for y in x]"))


def test_variables_that_are_closed_over_count_by_value() -> None:
    def made(prompt: str, weight: torch.Tensor, model: nn.Module, options: dict[str, int]) -> object:
        return lambda x: (prompt, model(x) * weight, options)

    torch.manual_seed(0)
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    first = code_digest(made("a", torch.ones(2), model, {"k": 1}))
    assert first == code_digest(made("a", torch.ones(2), model, {"k": 1}))
    changed = [
        made("b", torch.ones(2), model, {"k": 1}),
        made("a", torch.zeros(2), model, {"k": 1}),
        made("a", torch.ones(2), other, {"k": 1}),
        made("a", torch.ones(2), model, {"k": 2}),
    ]
    assert first not in {code_digest(it) for it in changed}


# -- models ------------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.net, self.scale, self.table = nn.Linear(4, 3), scale, [1.0, 2.0]
        self.shift = torch.ones(3)
        self.register_buffer("mask", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.net(x) * self.scale + self.shift * self.mask
        return self.last


CHANGES = {
    "a plain number": lambda m: setattr(m, "scale", 3.0),
    "a plain tensor": lambda m: m.shift.add_(1),
    "a buffer that is not saved": lambda m: m.mask.zero_(),
    "a list": lambda m: m.table.append(3.0),
    "a hook": lambda m: m.net.register_forward_hook(lambda module, inputs, output: output * 2),
    "a method put in place of its own": lambda m: setattr(m, "forward", lambda x: m.net(x)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_model_holds_beside_its_weights_counts(what: str) -> None:
    torch.manual_seed(0)
    model = Scaled()
    teacher = from_torch(model)
    before = teacher.fingerprint
    teacher(torch.zeros(2, 4))
    assert teacher.fingerprint == before, "what it keeps of a call does not count"
    CHANGES[what](model)
    assert teacher.fingerprint != before


def test_models_of_libraries_have_no_part_for_code() -> None:
    assert "; code " not in from_torch(nn.Sequential(nn.Linear(2, 2), nn.ReLU())).fingerprint
    assert state_digest(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))) is None


def test_the_code_of_an_own_model_counts(tmp_path: Path) -> None:
    text = (
        "import torch\nfrom torch import nn\nfrom tuition.teachers import from_torch\n"
        "class Base(nn.Module):\n    def read(self, x):\n        return x * 1.5\n"
        "class Net(Base):\n    def __init__(self):\n        super().__init__()\n        self.net = nn.Linear(2, 2)\n"
        "    def forward(self, x):\n        return self.net(self.read(x))\n"
        "torch.manual_seed(0)\nprint(from_torch(nn.Sequential(Net())).fingerprint)\n"
    )

    def fingerprint(text: str) -> str:
        (tmp_path / "script.py").write_text(text)
        done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    before = fingerprint(text)
    assert fingerprint(text.replace("class Net", "# a remark\nclass Net")) == before
    assert fingerprint(text.replace("x * 1.5", "x * 2.5")) != before


def test_packed_parameters_count_by_value() -> None:
    """Quantised weights beyond what `repr` shows of them."""

    def quantised(change: float) -> nn.Module:
        torch.manual_seed(0)
        linear = nn.Linear(64, 64)
        linear.weight.data[40, 40] += change
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8)

    first = from_torch(quantised(0.0)).fingerprint
    assert from_torch(quantised(0.0)).fingerprint == first
    assert from_torch(quantised(0.05)).fingerprint != first


def test_extra_state_counts_by_value() -> None:
    class Extra(nn.Linear):
        table = torch.arange(5000.0)

        def get_extra_state(self) -> object:
            return {"table": self.table}

        def set_extra_state(self, state: object) -> None: ...

    torch.manual_seed(0)
    model = Extra(2, 2)
    first = from_torch(model).fingerprint
    model.table = model.table.clone()
    model.table[2500] = 0.5
    assert from_torch(model).fingerprint != first


def test_kinds_of_tensors_count_by_value() -> None:
    values = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    changed = values.clone()
    changed[3, 3] = 0.9
    scales, zeros = torch.full((6,), 0.01), torch.zeros(6, dtype=torch.int64)
    kinds = [
        lambda x: x,
        lambda x: x.to(torch.bfloat16),
        lambda x: x.to_sparse(),
        lambda x: x.to_sparse_csr(),
        lambda x: torch.quantize_per_tensor(x, 0.01, 3, torch.quint8),
        lambda x: torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8),
        lambda x: x.numpy(),
        lambda x: {"a": [x.numpy()]},
    ]
    found = [content_digest(kind(values)) for kind in kinds]
    assert found == [content_digest(kind(values.clone())) for kind in kinds]
    assert not set(found) & {content_digest(kind(changed)) for kind in kinds}
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("model", [nn.LazyLinear(3), nn.Linear(4, 3, device="meta")])
def test_a_model_without_values_is_refused(model: nn.Module) -> None:
    with pytest.raises(UserError, match="has no values yet; load or run the model first"):
        from_torch(nn.Sequential(model)).fingerprint  # noqa: B018


# -- what is served ----------------------------------------------------------------------------------------------------

OWN = """
import torch
from tuition import teachers
def answer(inputs):
    open("calls", "a").write("." * len(inputs))
    return {"logits": inputs.flatten(1)[:, :10].float() * 1.0}
class Own:
    name, fingerprint = "own", "own 1"
    class_names = tuple("abcdefghij")
    def __call__(self, inputs):
        return answer(inputs)
def of_function(): return teachers.from_callable(answer, fingerprint="v1"KEPT)
def of_class(): return Own()
"""


def ask(folder: Path, name: str) -> tuple[int, str]:
    words = ["ask", "--teacher", f"own:{name}", "--data", "digits", "--calls", "8", "--set", "labels=false"]
    words += ["--store", f"{name}.db"]
    done = subprocess.run([sys.executable, "-B", "-m", "tuition", *words], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["of_function", "of_class"])
def test_old_answers_of_an_edited_factory_are_not_served(tmp_path: Path, name: str) -> None:
    own, calls = tmp_path / "own.py", tmp_path / "calls"
    text = OWN.replace("KEPT", "")
    own.write_text(text)
    assert ask(tmp_path, name)[0] == 0
    own.write_text(text.replace("def of_", "# a remark\ndef of_"))
    assert ask(tmp_path, name)[0] == 0
    assert calls.read_text().count(".") == 10, "equal code is served"
    own.write_text(text.replace("* 1.0", "* 2.0"))
    code, said = ask(tmp_path, name)
    assert (code, calls.read_text().count(".")) == (2, 10), said
    assert "its code was edited" in said
    if name == "of_function":
        kept = said.partition('code="')[2].partition('"')[0]
        own.write_text(OWN.replace("* 1.0", "/ 1.0").replace("KEPT", f', code="{kept}"'))
        assert ask(tmp_path, name)[0] == 0
        assert calls.read_text().count(".") == 10
        own.write_text(text.replace("* 1.0", "* 2.0").replace('"v1"', '"v2"'))
        assert ask(tmp_path, name)[0] == 0
        assert calls.read_text().count(".") == 20
