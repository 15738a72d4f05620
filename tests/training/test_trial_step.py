"""One step before anything is paid: students that cannot be trained, copied or saved are refused, others trained."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tuition import UserError, data, distill, load, models
from tuition.cli import main as cli
from tuition.training import Objective, check, methods
from tuition.training.objective import Term

ANSWER = {"logits": torch.zeros(1, 10)}


def layers(*more):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), *more, nn.Linear(144, 10))


class Around(nn.Module):
    """A student whose forward pass is the function `way`."""

    def __init__(self, way=None, net=None):
        super().__init__()
        self.net, self.way = net or layers(), way

    def forward(self, inputs):
        return self.net(inputs) if self.way is None else self.way(self, inputs)


class Extra(Around):
    def __init__(self, state):
        super().__init__()
        self.state = state

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


class Keeping(Around):
    def forward(self, inputs):
        self.last = {"maps": [self.net(inputs)]}
        return self.last["maps"][0]


class Counting(nn.Module):
    """Learns a mean that is not in its state."""

    def __init__(self):
        super().__init__()
        self.net = layers()
        self.register_buffer("mean", torch.zeros(10), persistent=False)

    def forward(self, inputs):
        answer = self.net(inputs)
        if self.training:
            self.mean = answer.detach().mean(dim=0) + 1
        return answer + self.mean


def with_lock():
    model = layers()
    model.lock = threading.Lock()
    return model


def frozen():
    return layers().requires_grad_(False)


def in_training(change):
    """A student whose answers are changed in training mode alone."""
    return lambda: Around(lambda m, x: change(m.net(x)) if m.training else m.net(x))


def with_rows():
    model = layers()
    model.rows = (row for row in range(3))
    return model


REFUSED = {
    "a tuple in training": (in_training(lambda y: (y, y)), "returns a tuple in training mode"),
    "a dict in training": (in_training(lambda y: {"out": y}), "returns a dict in training mode"),
    "a list always": (lambda: Around(lambda m, x: [m.net(x)]), "must return logits of shape"),
    "None in training": (in_training(lambda y: None), "returns a NoneType in training mode"),
    "other rows in training": (in_training(lambda y: y.repeat(2, 1)), r"returns shape \(4, 10\) in training mode"),
    "a mistake in training": (in_training(lambda y: y / (1 // 0)), "cannot be trained .*by zero"),
    "squeezing": (lambda: Around(lambda m, x: m.net(x).squeeze()), "drops the first dimension of a single input"),
    "a lock": (with_lock, "the student cannot be copied .*lock"),
    "a generator": (with_rows, "the student cannot be copied .*generator"),
    "extra state": (lambda: Extra({"seen": 3}), "_extra_state of the model's state is not a tensor"),
    "frozen": (frozen, "has no parameters to train"),
    "no gradient": (lambda: Around(lambda m, x: m.net(x).detach()), "cannot be trained .*grad"),
    "state outside its state": (Counting, "answers otherwise once it is saved and loaded"),
    "NaN in training": (in_training(lambda y: y * float("nan")), "the loss term ckd is nan"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_trained_is_refused(pool, transfer, tmp_path, what):
    make, says = REFUSED[what]
    for act in (
        lambda: check(make(), pool, "ckd", answer=ANSWER, out=tmp_path / "new" / "run"),
        lambda: check(make(), pool, "ckd", answer=None, out=tmp_path / "new" / "run"),
        lambda: distill(make(), transfer, out=tmp_path / "new" / "run"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            act()
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def tied():
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, second, nn.Linear(64, 10))


def used():
    model = Keeping()
    model(torch.zeros(2, 1, 8, 8))
    return model


def not_contiguous():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model[1].weight = nn.Parameter(torch.randn(64, 10).T)
    return model


def hooked():
    model = layers()
    model[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return model


TRAINED = {
    "weight_norm": lambda: layers(nn.utils.weight_norm(nn.Linear(144, 144))),
    "spectral_norm": lambda: layers(parametrizations.spectral_norm(nn.Linear(144, 144))),
    "weight_norm as a parametrization": lambda: layers(parametrizations.weight_norm(nn.Linear(144, 144))),
    "orthogonal": lambda: layers(parametrizations.orthogonal(nn.Linear(144, 144))),
    "used once": used,
    "lazy": lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10)),
    "extra state that is a tensor": lambda: Extra(torch.tensor([3.0])),
    "tied": tied,
    "not contiguous": not_contiguous,
    "dropout": lambda: layers(nn.Dropout(0.5)),
    "hooks": hooked,
    "half frozen": lambda: Around(net=layers(nn.Linear(144, 144).requires_grad_(False))),
    "compiled": lambda: torch.compile(layers()),
    "compiled inside": lambda: nn.Sequential(torch.compile(layers())),
    "DataParallel": lambda: nn.DataParallel(layers()),
    "both": lambda: torch.compile(nn.DataParallel(layers())),
}


@pytest.mark.parametrize("what", TRAINED)
@pytest.mark.filterwarnings("ignore")
def test_what_can_be_trained_is_trained_saved_and_loaded(transfer, pool, tmp_path, what):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model, other = TRAINED[what](), TRAINED[what]()
    run = distill(model, transfer, "kd", epochs=2, out=tmp_path)
    names = [name for name in run.student.state_dict() if "_orig_mod" in name or ".module." in name]
    assert names == []
    plain = models.copied(other)
    again = load(tmp_path, model=plain)
    torch.testing.assert_close(again.logits(pool), run.student.logits(pool))


def test_compiled_and_parallel_students_are_loaded_into_plain_models(transfer, pool, tmp_path):
    """And learn what the plain model learns."""
    plain = layers()
    runs = [
        distill(wrap(copy.deepcopy(plain)), transfer, "kd", epochs=2, out=tmp_path / str(i))
        for i, wrap in enumerate((lambda m: m, torch.compile, nn.DataParallel))
    ]
    for i, run in enumerate(runs):
        loaded = load(tmp_path / str(i), model=layers())
        assert torch.equal(loaded.logits(pool), runs[0].student.logits(pool)), run


def test_lazy_students_follow_from_the_seed(transfer):
    def make():
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

    a, b, c = (distill(make(), transfer, "kd", epochs=1, seed=seed) for seed in (3, 3, 4))
    weights = [run.student.model[1].weight for run in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_trial_leaves_no_trace(transfer, pool):
    """Of the student, of an objective of one's own, and of the caller's random state."""
    model = layers(nn.Dropout(0.5))
    projector = nn.Linear(10, 10)
    norm = nn.BatchNorm1d(10)
    term = Term("own", lambda student, batch: norm(projector(student)).square().mean())
    objective = Objective([term], modules=[projector, norm])
    state, weights, kept = (
        torch.get_rng_state(),
        copy.deepcopy(model.state_dict()),
        copy.deepcopy(objective.state_dict()),
    )
    check(model, pool, objective, answer=ANSWER)
    assert torch.equal(torch.get_rng_state(), state)
    for before, after in ((weights, model.state_dict()), (kept, objective.state_dict())):
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in objective.parameters())


@pytest.mark.parametrize("method", [m for m in methods.METHODS if not methods.teacher_layers(m, "cnn_4")])
def test_no_method_is_refused_wrongly(pool, method):
    """On blank answers, of which all rows are equal; pools with and without labels."""
    check("cnn_4", pool, method, answer=ANSWER)
    check("cnn_4", pool, method, answer=None)
    if method not in ("ce", "tf_fd", "dkd"):
        check("cnn_4", pool.without_labels, method, answer=ANSWER)


def test_methods_with_maps_of_a_remote_teacher_are_tried_without_them(pool):
    check("cnn_4", pool, "fitnets", answer=None)
    with pytest.raises(UserError, match="returns a tuple in training mode"):
        check(REFUSED["a tuple in training"][0](), pool, "tf_fd", answer=None, options={"layers": ["net"]})


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("kd", {"temperature": 1e-300}, "the loss term kd is (nan|inf)"),
        ("kd", {"temperature": 1e300}, "cannot be trained .*out of range"),
        ("kd", {"kd_weight": 0, "ce_weight": 0}, "the method kd cannot be used like this: every weight is 0"),
        ("ckd", {"reads": "nowhere"}, "nowhere"),
        ("ckd_published", {"left": 1000}, "groups .* need 1001 inputs"),
    ],
)
def test_options_that_make_no_loss_are_refused(pool, method, options, says):
    with pytest.raises(UserError, match=says):
        check("cnn_4", pool, method, answer={"logits": torch.arange(10.0)[None]}, options=options)


STUDENT = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.main = nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))
    def forward(self, x):
        return {"out": self.main(x)} if self.training else self.main(x)
def teacher():
    from tuition import teachers
    def never(inputs):
        raise AssertionError("called")
    return teachers.from_callable(never, fingerprint="never", name="never")
"""


def test_the_command_line_pays_nothing_for_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine_28.py").write_text(STUDENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "distill",
        "--teacher",
        "mine_28:teacher",
        "--student",
        "mine_28:Net",
        "--calls",
        "40",
        "--out",
        "runs/a/b",
    ]
    monkeypatch.setattr("sys.argv", ["tuition", *words, "--calls", "40", "--out", "runs/a/b"])
    assert cli.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "returns a dict in training mode" in said
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["mine_28.py"]


def test_students_of_text_are_tried_too():
    texts = data.from_tensors([f"a letter {i}" for i in range(20)], [i % 2 for i in range(20)])
    check("bag_8", texts, "ckd", answer={"logits": torch.zeros(1, 2)})
