"""ONNX files as teachers: exported students, and graphs written here."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tuition import ResponseStore, data, models
from tuition.errors import UserError
from tuition.teachers import NotCharged, from_onnx
from tuition.training import Student

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def graph(path: Path, kind: int = TensorProto.FLOAT, shape: tuple[object, ...] = ("n", 4), **outputs: int) -> Path:
    """outputs[name] = i: `inputs` as floats (n, 4) @ (WEIGHT + i)."""
    inputs = helper.make_tensor_value_info("inputs", kind, shape)
    nodes = [helper.make_node("Cast", ["inputs"], ["cast"], to=TensorProto.FLOAT),
             helper.make_node("Flatten", ["cast"], ["flat"])]  # fmt: skip
    nodes += [helper.make_node("MatMul", ["flat", f"w{name}"], [name]) for name in outputs]
    weights = [numpy_helper.from_array(WEIGHT + i, f"w{name}") for name, i in outputs.items()]
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [inputs], found, weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    onnx.save(model, path)
    return path


def test_an_exported_student_is_a_teacher(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (7, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    student = Student(
        models.create("cnn_4", num_classes=5, seed=0),
        models.Preprocess([0.4, 0.5, 0.6], [0.2, 0.2, 0.2]),
        input_shape=(3, 12, 12),
    )
    teacher = from_onnx(student.export(tmp_path / "student.onnx"))
    torch.testing.assert_close(teacher(images)["logits"], student.logits(images), atol=1e-5, rtol=1e-5)
    assert teacher.name.startswith("student-")
    pool = data.from_tensors(images)
    transfer = ResponseStore(str(tmp_path / "r.db")).ask(teacher, pool, budget=7, batch_size=3)
    torch.testing.assert_close(transfer.responses["logits"], student.logits(images), atol=1e-2, rtol=1e-2)
    for inputs in (torch.zeros(2, 4), ["text"], images[:, :, :8], images.float() / 255):
        with pytest.raises(NotCharged, match="reads") as raised:
            teacher(inputs)
        assert not raised.value.retry


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_graphs_of_floats_read_vectors_and_scaled_images(tmp_path: Path, kind: int) -> None:
    vectors = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0.5]])
    expected = torch.tensor([[0.0, 1, 2], [10.5, 13, 15.5]])
    assert torch.equal(from_onnx(graph(tmp_path / "v.onnx", kind, logits=0))(vectors)["logits"], expected)
    pictures = torch.tensor([[[[255, 0], [0, 0]]], [[[0, 255], [0, 51]]]], dtype=torch.uint8)
    path = graph(tmp_path / "i.onnx", kind, ("n", 1, 2, 2), logits=0)
    scaled = torch.tensor([[0.0, 1, 2], [3 + 1.8, 4 + 2, 5 + 2.2]])
    torch.testing.assert_close(from_onnx(path)(pictures)["logits"], scaled, atol=1e-2, rtol=0)
    normal = from_onnx(path, mean=[0.5], std=[0.25])(pictures)["logits"]
    torch.testing.assert_close(normal, scaled * 4 - 2 * torch.tensor(WEIGHT.sum(0)), atol=5e-2, rtol=0)
    with pytest.raises(UserError, match="both mean and std"):
        from_onnx(path, mean=[0.5])


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    vectors = torch.arange(20.0).view(5, 4)
    for size in (1, 2, 3, 8):
        teacher = from_onnx(graph(tmp_path / "g.onnx", shape=(size, 4), logits=0))
        assert torch.equal(teacher(vectors)["logits"], vectors @ torch.tensor(WEIGHT))


def test_texts(tmp_path: Path) -> None:
    for shape in (("n",), ("n", 1)):
        nodes = [
            helper.make_node("LabelEncoder", ["inputs"], ["ids"], domain="ai.onnx.ml", keys_strings=["a", "b"],
                             values_floats=[1.0, 2.0], default_float=0.0),
            helper.make_node("Reshape", ["ids", "shape"], ["embedding"]),
        ]  # fmt: skip
        model = helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info("inputs", TensorProto.STRING, shape)],
                [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)],
                [numpy_helper.from_array(np.array([-1, 1]), "shape")],
            ),
            opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)],
        )
        model.ir_version = 10
        onnx.save(model, tmp_path / "t.onnx")
        teacher = from_onnx(tmp_path / "t.onnx", output="embedding")
        assert teacher(["b", "a", "c"])["embedding"].tolist() == [[2.0], [1.0], [0.0]]
        with pytest.raises(NotCharged, match="reads text, not images"):
            teacher(torch.zeros(2, 4))


def test_outputs_are_chosen_by_name(tmp_path: Path) -> None:
    vectors = torch.eye(4)
    one = graph(tmp_path / "one.onnx", scores=0)
    assert torch.equal(from_onnx(one)(vectors)["logits"], torch.tensor(WEIGHT)), "the only output, whatever its name"
    two = graph(tmp_path / "two.onnx", logits=0, embedding=1)
    assert torch.equal(from_onnx(two, output="embedding")(vectors)["embedding"], torch.tensor(WEIGHT) + 1)
    with pytest.raises(UserError, match="outputs logits, embedding, none of them scores"):
        from_onnx(two, output="scores")


def test_the_fingerprint_knows_weights_wherever_they_are(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.onnx", logits=0)
    first = from_onnx(path).fingerprint
    assert from_onnx(graph(tmp_path / "copy.onnx", logits=0)).fingerprint == first
    assert from_onnx(path, mean=[0.5], std=[1]).fingerprint != first
    assert from_onnx(graph(tmp_path / "h.onnx", logits=1)).fingerprint != first
    onnx.save(onnx.load(path), tmp_path / "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    outside = from_onnx(tmp_path / "e.onnx")
    assert torch.equal(outside(torch.eye(4))["logits"], torch.tensor(WEIGHT))
    weights = bytearray((tmp_path / "w.bin").read_bytes())
    weights[4:8] = np.float32(7).tobytes()
    (tmp_path / "w.bin").write_bytes(weights)
    assert from_onnx(tmp_path / "e.onnx").fingerprint != outside.fingerprint
    assert from_onnx(tmp_path / "e.onnx")(torch.eye(4))["logits"][0, 1] == 7


def test_files_and_graphs_that_are_no_teachers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.onnx was not found; name an ONNX file"):
        from_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match="cannot be read as an ONNX graph"):
        from_onnx(tmp_path / "text.onnx")
    with pytest.raises(UserError, match=r"reads inputs: tensor\(int64\); only one input"):
        from_onnx(graph(tmp_path / "i.onnx", TensorProto.INT64, logits=0))
    failing = from_onnx(graph(tmp_path / "f.onnx", shape=("n", "d"), logits=0))
    with pytest.raises(NotCharged, match="the graph failed with") as raised:
        failing(torch.zeros(2, 5))
    assert not raised.value.retry


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'tuition\[onnx\]'"):
        from_onnx(tmp_path)


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname", "inner/../../weights.bin"])
def test_weights_outside_of_the_folder_are_not_read(tmp_path: Path, place: str) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "model").mkdir()
    path = graph(tmp_path / "model" / "m.onnx", logits=0)
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, place)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="names weights outside of its folder"):
        from_onnx(path)
