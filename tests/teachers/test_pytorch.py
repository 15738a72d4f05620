"""PyTorch models as teachers: preprocessing, modes, maps, and fingerprints that tell teachers apart."""

import copy
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

import tuition
from tuition import ResponseStore, data
from tuition.data import from_tensors
from tuition.errors import UserError
from tuition.teachers import NotCharged, from_torch, load
from tuition.training import train_teacher


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.stages = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(width, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(self.norm(self.stem(inputs))).mean((2, 3)))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_images_are_scaled_and_normalised(model: Net, images: torch.Tensor) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    answer = from_torch(model, mean=mean, std=std)(images)
    scaled = torch.stack([(images[:, c].float() / 255 - mean[c]) / std[c] for c in range(3)], 1)
    model.eval()
    torch.testing.assert_close(answer["logits"], model(scaled))
    assert list(answer) == ["logits"]
    assert not answer["logits"].requires_grad
    torch.testing.assert_close(from_torch(model)(images)["logits"], model(images.float() / 255))


def test_vectors_are_taken_as_they_are() -> None:
    linear, vectors = nn.Linear(3, 2), torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(from_torch(linear)(vectors)["logits"], linear(vectors.float()))
    half = copy.deepcopy(linear).to(torch.bfloat16)
    assert from_torch(half)(vectors)["logits"].dtype == torch.float32


def test_every_module_keeps_its_mode_and_its_statistics(model: Net, images: torch.Tensor) -> None:
    model.train()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    teacher = from_torch(model)
    assert torch.equal(teacher(images)["logits"], teacher(images)["logits"]), "dropout is off"
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True, True]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_maps_come_with_the_same_call(model: Net, images: torch.Tensor) -> None:
    calls = []
    model.register_forward_hook(lambda *arguments: calls.append(1))
    answer = from_torch(model, layers=["stem", "stages.0"])(images)
    assert len(calls) == 1
    assert set(answer) == {"logits", "stem", "stages.0"}
    expected = model.stem(images.float() / 255)
    assert torch.equal(answer["stem"], expected.to(torch.bfloat16))
    assert answer["stages.0"].shape == (6, 4, 6, 6)
    assert not model.stem._forward_hooks, "hooks are removed"


def test_a_mapping_answers_with_its_tensors(images: torch.Tensor) -> None:
    class Outputs(Net):
        def forward(self, inputs: torch.Tensor) -> OrderedDict[str, object]:  # type: ignore[override]
            logits = super().forward(inputs)
            return OrderedDict(logits=logits, embedding=logits[:, :2], loss=None)

    assert set(from_torch(Outputs())(images)) == {"logits", "embedding"}


CHANGES: dict[str, Callable[[Net], object]] = {
    "a weight": lambda m: m.head.weight.data[0, 0].add_(1e-6),
    "a buffer": lambda m: m.norm.running_mean.add_(1e-6),
    "the precision": lambda m: m.to(torch.bfloat16),
    "the structure": lambda m: setattr(m, "stages", nn.Sequential(nn.GELU(), nn.Dropout(0.5))),
    "a setting": lambda m: setattr(m.norm, "eps", 1e-3),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_fingerprint_changes_with(model: Net, what: str) -> None:
    teacher = from_torch(model)
    fingerprint, name = teacher.fingerprint, teacher.name
    assert from_torch(copy.deepcopy(model)).fingerprint == fingerprint
    CHANGES[what](model)
    assert teacher.fingerprint != fingerprint, "a change after the teacher was made is seen too"
    assert teacher.name != name


def test_the_fingerprint_knows_preprocessing_and_class_but_not_mode_or_layers(model: Net) -> None:
    fingerprint = from_torch(model).fingerprint
    assert from_torch(model, mean=[0.5] * 3, std=[0.5] * 3).fingerprint != fingerprint
    assert from_torch(model, layers=["stem"]).fingerprint == fingerprint
    assert from_torch(model.eval(), name="other").fingerprint == fingerprint
    assert from_torch(torch.compile(model)).fingerprint == fingerprint

    class Twin(Net):
        pass

    twin = Twin()
    twin.load_state_dict(model.state_dict())
    assert from_torch(twin).fingerprint != fingerprint


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    program = (
        "import torch; from torch import nn; from tuition.teachers import from_torch; torch.manual_seed(3);"
        "m = nn.Sequential(nn.Linear(2, 3)); m.extra_repr = lambda: repr(object());"
        "print(from_torch(m).fingerprint, from_torch(m).name)"
    )
    runs = {subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(runs) == 1
    assert "weights" in runs.pop()


def test_a_model_that_fails_charges_nothing(model: Net) -> None:
    model.train()
    with pytest.raises(NotCharged, match="the model failed with RuntimeError") as raised:
        from_torch(model)(torch.zeros(2, 5, 8, 8))
    assert not raised.value.retry
    assert model.training
    assert not model.stem._forward_hooks
    with pytest.raises(NotCharged, match="not text"):
        from_torch(model)(["a text"])


def test_settings_that_do_not_fit(model: Net) -> None:
    with pytest.raises(UserError, match="both mean and std"):
        from_torch(model, mean=[0.5])
    with pytest.raises(UserError, match=r"^mean needs one value a channel, such as mean=\[0\.3\]"):
        from_torch(model, mean=0.3)
    with pytest.raises(UserError, match=r"^std needs one value a channel, such as std=\[2\]"):
        from_torch(model, mean=[0.3], std=2)
    with pytest.raises(UserError, match=r"no layer 'stage2'; it has head, norm, stages, stages\.0, stages\.1, stem"):
        from_torch(model, layers=["stage2"])
    named = nn.ModuleDict({"logits": nn.Linear(1, 1)})
    with pytest.raises(UserError, match="would hide"):
        from_torch(named, layers=["logits"])


class Returns(nn.Module):
    """A linear model that returns what `form` makes of its logits."""

    def __init__(self, form: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.net, self.form = nn.Linear(4, 3), form

    def forward(self, inputs: torch.Tensor) -> object:
        return self.form(self.net(inputs))


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Named(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    "form",
    [
        lambda x: (x,),
        lambda x: [x],
        lambda x: Output(x),
        lambda x: Named(x * 2, x),
        lambda x: {"logits": x, "loss": x.mean(), "hidden": (x, x)},
    ],
)
def test_answers_in_which_the_logits_are_clear(form: Callable[[torch.Tensor], object]) -> None:
    model, inputs = Returns(form), torch.rand(5, 4)
    answer = from_torch(model)(inputs)
    assert list(answer) == ["logits"]
    torch.testing.assert_close(answer["logits"], model.net(inputs))


@pytest.mark.parametrize(
    "form",
    [
        lambda x: (x, x.exp()),
        lambda x: [x, x],
        lambda x: None,
        lambda x: x.mean(),
        lambda x: {"loss": x.mean()},
        lambda x: x + 1j,
        lambda x: x.tolist(),
    ],
)
def test_answers_in_which_they_are_not_are_a_sentence_and_not_charged(form, tmp_path) -> None:
    store, teacher = ResponseStore(str(tmp_path / "r.db")), from_torch(Returns(form), name="net")
    with pytest.raises(UserError, match=r"the model answers . inputs with .*wrap it in a module"):
        store.ask(teacher, from_tensors(torch.rand(8, 4)), budget=8)
    assert store.accounts().paid == 0


@pytest.mark.parametrize("form", [lambda x: x[:2], lambda x: Output(x[:1]), lambda x: torch.cat([x, x])])
def test_answers_of_other_rows_are_not_charged(form: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(NotCharged, match=r"the model answers 5 inputs with .*wrap it in a module"):
        from_torch(Returns(form))(torch.rand(5, 4))


def test_exported_and_scripted_models_are_asked(tmp_path) -> None:
    torch.manual_seed(0)
    net, inputs = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).eval(), torch.rand(8, 4)
    dynamic = ({0: torch.export.Dim("b", min=1, max=64)},)
    program = torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=dynamic)
    expected = net(inputs)
    for model in (program, program.module(), torch.jit.script(net), torch.jit.trace(net, inputs)):
        store, teacher = ResponseStore(str(tmp_path / "r.db")), from_torch(model)
        found = store.ask(teacher, from_tensors(inputs), budget=8).responses["logits"]
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)
    fixed = from_torch(torch.export.export(net, (torch.zeros(2, 4),)))
    with pytest.raises(NotCharged, match="the model failed with"):
        fixed(inputs)


def test_the_code_of_exported_and_scripted_models_counts() -> None:
    class Times(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs * self.factor

    inputs = torch.ones(2, 3)
    for make in (
        lambda model: torch.export.export(model, (inputs,)),
        lambda model: torch.jit.trace(model, inputs),
        lambda model: torch.fx.symbolic_trace(model),
    ):
        one, same, two = (from_torch(make(Times(factor))).fingerprint for factor in (1.5, 1.5, 2.5))
        assert one == same != two


def test_what_is_not_a_module() -> None:
    with pytest.raises(UserError, match=r"takes a torch\.nn\.Module, not function; use from_callable"):
        from_torch(lambda x: x)


def test_a_folder_is_a_model_and_not_a_name(tmp_path) -> None:
    folder = str(tmp_path / "teacher")
    (tmp_path / "teacher").mkdir()
    with pytest.raises(
        UserError, match=r"is a folder; in Python pass teachers\.from_torch\(tuition\.load\('.*teacher'\)\)"
    ):
        load(folder)
    run = train_teacher("cnn_4", data.load("digits")[:40], validation=None, epochs=1, out=folder)
    teacher = from_torch(tuition.load(folder), name="taught")
    inputs = data.load("digits").inputs[:8]
    assert torch.allclose(torch.as_tensor(teacher(inputs)["logits"]), run.student.logits(inputs), atol=1e-6)
