"""What cannot be exported is one sentence and no file; what is exported answers as the student."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tuition import UserError, models
from tuition.training import Student
from tuition.training.exporting import PRODUCER


class Net(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.layers, self.way = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), way

    def forward(self, inputs):
        return self.way(self.layers, inputs)


def student(way):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Student(Net(way), models.Preprocess([0.5], [0.2]), input_shape=(1, 8, 8)).eval()


def loops(layers, inputs):
    answer = layers(inputs)
    while answer.abs().max() > 1:
        answer = answer / 2
    return answer


FAILING = {
    "a branch": lambda layers, x: layers(x) * 2 if x.sum() > 0 else layers(x),
    "a loop": loops,
    "numpy": lambda layers, x: layers(torch.from_numpy(np.tanh(x.detach().numpy()))) * float(x.detach().numpy().max()),
    "a branch on math": lambda layers, x: layers(x) if math.isnan(float(x[0, 0, 0, 0])) else -layers(x),
    "rows that are fixed": lambda layers, x: layers(x) if len(x) == 2 else layers(x) * 3,
    "a mistake": lambda layers, x: 1 / 0,
}


@pytest.mark.parametrize("what", FAILING)
def test_what_cannot_be_exported_is_one_sentence_and_no_file(tmp_path, capfd, what):
    whole = student(FAILING[what])
    with pytest.raises(UserError, match=r"cannot be exported|differ from the student's|does not run") as caught:
        whole.export(tmp_path / "new" / "student.onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert list(tmp_path.iterdir()) == [], "no half file and no empty folder"
    assert capfd.readouterr() == ("", "")


def test_branches_on_what_does_not_change_are_exported(tmp_path):
    import onnx
    import onnxruntime

    whole = student(lambda layers, x: layers(x) if x.shape[1] == 1 else layers(x[:, :1]))
    path = whole.export(tmp_path / "student.onnx")
    assert onnx.load(path).producer_name == PRODUCER
    inputs = torch.arange(64 * 5).remainder(256).view(5, 1, 8, 8).to(torch.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"inputs": inputs.numpy()})
    np.testing.assert_allclose(found, whole.logits(inputs).numpy(), rtol=1e-4, atol=1e-4)


def test_an_earlier_export_is_replaced_and_another_model_is_not(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    whole = student(lambda layers, x: layers(x))
    path = whole.export(tmp_path / "student.onnx")
    before = path.read_bytes()
    with torch.no_grad():
        next(whole.parameters()).zero_()
    whole.export(path)
    assert path.read_bytes() != before
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_model(helper.make_graph([helper.make_node("Identity", ["x"], ["x2"])], "g", [value], []))
    onnx.save(other, tmp_path / "other.onnx")
    kept = (tmp_path / "other.onnx").read_bytes()
    with pytest.raises(UserError, match=r"other\.onnx exists and holds something else"):
        whole.export(tmp_path / "other.onnx")
    assert (tmp_path / "other.onnx").read_bytes() == kept


def test_the_command_says_one_line(tmp_path):
    (tmp_path / "branching_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__()\n"
        "        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))\n"
        "    def forward(self, x):\n"
        "        return self.net(x) * 2 if x.sum() > 0 else self.net(x)\n"
    )
    teach = ["teach", "--data", "digits", "--model", "branching_net:Net", "--epochs", "1", "--out", "run"]
    for words, code in ((teach, 0), (["export", "run", "student.onnx", "--trust-code"], 2)):
        done = subprocess.run([sys.executable, "-m", "tuition", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert done.stderr.startswith("Error: the student cannot be exported (")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "student.onnx").exists()
