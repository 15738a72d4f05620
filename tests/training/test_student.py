"""The finished student: the same answers from raw inputs in memory, from its folder, and from its ONNX file."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tuition import UserError, data, distill, load, models
from tuition.data import Crop, TransferSet
from tuition.data.sources import read_images
from tuition.training import Student, evaluation


@pytest.fixture(scope="module")
def run(transfer, tmp_path_factory):
    return distill("cnn_4", transfer, "kd", epochs=3, learning_rate=0.2, out=tmp_path_factory.mktemp("run"))


def test_answers_do_not_depend_on_how_inputs_come(run, pool):
    student = run.student
    logits = student.logits(pool)
    assert logits.shape == (200, 10)
    assert logits.dtype == torch.float32
    assert torch.equal(student.logits(pool.inputs), logits)
    assert torch.equal(student.logits(pool.inputs.numpy()), logits)
    torch.testing.assert_close(student.logits(pool.inputs[0]), logits[:1])
    torch.testing.assert_close(student.probabilities(pool), logits.softmax(1))
    assert torch.equal(student.predict(pool), logits.argmax(1))
    assert student.class_names == tuple("0123456789")
    # And it is a model of raw inputs, with gradients.
    torch.testing.assert_close(student(pool.inputs[:5]), logits[:5])
    assert student(pool.inputs[:5]).requires_grad


def test_predictions_have_names_and_confidences(run, pool):
    predicted = run.student.predict(pool.inputs[:3])
    assert predicted.classes == [str(index) for index in predicted.tolist()]
    assert torch.equal(predicted.confidence, run.student.probabilities(pool.inputs[:3]).max(dim=1).values)
    assert type(predicted == predicted) is torch.Tensor
    assert repr(predicted).startswith(f"[{predicted.classes[0]} ({predicted.confidence[0]:.0%}), ")
    nameless = Student(run.student.model, run.student.preprocess, input_shape=(1, 8, 8)).eval()
    assert nameless.predict(pool.inputs[0]).classes is None
    assert repr(nameless.predict(pool.inputs[0])).startswith(f"[{predicted.tolist()[0]} (")


def test_pictures_are_read_as_the_data_were(run, pool, tmp_path):
    from PIL import Image

    arrays = pool.inputs[:3, 0].numpy()
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path)
    expected = run.student.logits(pool.inputs[:3])
    for same in (paths, [str(path) for path in paths], [*map(Image.open, paths)], list(arrays[:, None])):
        assert torch.equal(run.student.logits(same), expected)
    for one in (str(paths[0]), paths[0], Image.open(paths[0]), arrays[:1]):
        assert torch.allclose(run.student.logits(one), expected[:1], atol=1e-5)

    large = tmp_path / "large.png"
    Image.fromarray(arrays[0]).resize((40, 24)).save(large)
    squashed = read_images([large], size=8).inputs
    assert torch.equal(load(run.directory).logits(large), run.student.logits(squashed))
    assert torch.equal(run.student.logits(Image.open(large)), run.student.logits(squashed))


def test_grey_pictures_are_read_by_students_of_colours():
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = models.create("cnn_4", num_classes=3, seed=0)
    student = Student(model, models.Preprocess([0.5] * 3, [0.5] * 3), input_shape=(3, 8, 8)).eval()
    assert torch.equal(student.logits(grey), student.logits(grey.expand(-1, 3, -1, -1)))


def test_a_picture_that_cannot_be_read_is_named(run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read the image .*broken\.png"):
        run.student.predict(tmp_path / "broken.png")


def test_answers_may_be_learned_from(run, pool):
    """Logits are plain tensors that autograd takes, not those of inference mode."""
    again = distill("cnn_4", TransferSet(pool, {"logits": run.student.logits(pool)}), "ckd", epochs=1)
    assert again.steps == 4


def test_evaluation_puts_the_mode_back(run, pool):
    run.student.train()
    before = {name: value.clone() for name, value in run.student.state_dict().items()}
    found = run.student.evaluate(pool)
    assert run.student.training
    assert all(torch.equal(before[name], value) for name, value in run.student.state_dict().items())
    run.student.eval()
    assert found == evaluation.evaluate(run.student.logits(pool), pool.labels)


def test_a_student_is_loaded_as_it_was(run, pool):
    student = load(run.directory)
    assert torch.equal(student.logits(pool), run.student.logits(pool))
    assert (student.class_names, student.input_shape) == (run.student.class_names, (1, 8, 8))
    assert not student.training


def test_images_of_another_size_are_cut_like_those_it_learned_from():
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = models.create("cnn_4", num_classes=3, seed=0)
    student = Student(
        model, models.Preprocess([0.5] * 3, [0.5] * 3), input_shape=(3, 12, 12), crop=Crop(padding=0, size=12)
    )
    assert torch.equal(student.logits(images), student.logits(images[:, :, 2:14, 2:14]))


def test_pictures_in_colour_become_grey_where_the_student_reads_grey(run, tmp_path):
    pixels = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "colour.png")
    expected = run.student.logits(torch.from_numpy(np.array(picture.convert("L")))[None])
    assert torch.equal(run.student.logits(picture), expected)
    assert torch.equal(run.student.logits(tmp_path / "colour.png"), expected)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"takes inputs of shape \(1, 8, 8\), not \(3, 8, 8\)"),
        (torch.zeros(2, 64), r"takes inputs of shape \(1, 8, 8\), not \(2, 64\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "not torch.int64"),
        ("a letter", "the picture a letter was not found"),
        (["a letter", "another"], "the picture a letter was not found"),
        ([[0.0, 1.0], [0.0]], "inputs are images, vectors or strings, all of one shape"),
        (data.from_tensors(["a letter"]), "not text"),
    ],
)
def test_inputs_of_another_kind_are_refused(run, inputs, says):
    with pytest.raises(UserError, match=says):
        run.student.predict(inputs)


def test_pools_it_cannot_be_evaluated_on_are_refused(run, pool):
    with pytest.raises(UserError, match="needs labels"):
        run.student.evaluate(pool.without_labels)
    more = data.from_tensors(pool.inputs, pool.labels + 5)
    with pytest.raises(UserError, match="labels run to 14, but the model knows 10 classes"):
        run.student.evaluate(more)


def test_unfinished_and_damaged_runs_are_not_loaded(run, tmp_path):
    record = json.loads((run.directory / "run.json").read_text())
    with pytest.raises(UserError, match=r"is not the folder of a run .*; give the folder of a finished run"):
        load(tmp_path)
    with pytest.raises(UserError, match="is not the folder of a run"):
        load(run.directory / "run.json")
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"student.safetensors cannot be read: No such file"):
        load(tmp_path)
    content = (run.directory / "student.safetensors").read_bytes()
    (tmp_path / "student.safetensors").write_bytes(content[:500])
    with pytest.raises(UserError, match="cut short"):
        load(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(record | {"status": "running"}))
    with pytest.raises(UserError, match="is not finished; give its command again"):
        load(tmp_path)


def test_onnx_answers_alike_at_any_batch_size(run, pool, tmp_path):
    import onnx
    import onnxruntime

    student = load(run.directory)
    path = student.export(tmp_path / "new" / "student.onnx")
    assert not student.training
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [("inputs", "tensor(uint8)", [1, 8, 8])]
    for count in (1, 2, 7, 64):
        (found,) = session.run(["logits"], {"inputs": pool.inputs[:count].numpy()})
        np.testing.assert_allclose(found, student.logits(pool.inputs[:count]).numpy(), rtol=1e-4, atol=1e-4)
    about = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert about == {
        "class_names": list("0123456789"),
        "input_shape": [1, 8, 8],
        "value_range": [0, 255],
        "image_size": [8, 8],
        "resize_filter": "bilinear",
    }


def test_onnx_of_a_module_of_vectors(tmp_path):
    import onnxruntime

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    student = Student(model, models.Preprocess([1.0] * 4, [2.0] * 4), input_shape=(4,))
    session = onnxruntime.InferenceSession(student.export(tmp_path / "s.onnx"), providers=["CPUExecutionProvider"])
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(["logits"], {"inputs": inputs.numpy()})
    np.testing.assert_allclose(found, student.logits(inputs).numpy(), rtol=1e-5, atol=1e-5)
