"""Students of text: from strings to answers, in memory, from their folder and from ONNX; and what is refused."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tuition import UserError, data, distill, load, models
from tuition.data import TransferSet
from tuition.pipeline.settings import DistillSettings, TeachSettings
from tuition.training.callbacks import Shown
from tuition.training.preflight import check

THINGS = ("cat", "dog", "fern", "moss")
SAID = ("I saw a {}.", "the {} again", "{}, they said", "one more {} by the door", "no {} here", "my {}!", "{} and {}")


@pytest.fixture(scope="module")
def texts():
    """84 texts, the class being whether an animal or a plant is spoken of."""
    pairs = [
        (said.format(thing, thing) + " " + end, i // 2)
        for i, thing in enumerate(THINGS)
        for said in SAID
        for end in ("so", "now", "then")
    ]
    pool = data.from_tensors(
        [text for text, _ in pairs], [label for _, label in pairs], class_names=["animal", "plant"]
    )
    return pool.sample(len(pool), seed=0)


@pytest.fixture(scope="module")
def answered(texts):
    return TransferSet(texts[:60], {"logits": 4 * F.one_hot(texts[:60].labels, 2).float()})


@pytest.fixture(scope="module")
def run(answered, texts, tmp_path_factory):
    return distill(
        "bag_32",
        answered,
        "kd",
        test=texts[60:],
        epochs=10,
        learning_rate=0.01,
        optimizer="adamw",
        out=tmp_path_factory.mktemp("run"),
    )


@pytest.mark.parametrize("student", ["bag_32", "transformer_32_1"])
@pytest.mark.parametrize("method", ["kd", "ckd", "mse", "ckd_published"])
def test_methods_teach_students_of_text(answered, texts, student, method):
    run = distill(
        student,
        answered,
        method,
        validation=texts[60:70],
        test=texts[70:],
        epochs=60,
        learning_rate=0.01,
        optimizer="adamw",
    )
    assert run.accuracy >= 75
    assert run.accuracy == run.student.evaluate(texts[70:]).accuracy
    assert run.agreement == 100 * float((run.student.predict(answered.pool) == answered.labels).double().mean())


def test_adamw_is_usual_for_text(answered, texts, transfer, tmp_path):
    assert distill("bag_32", answered, "kd", test=texts[60:], out=tmp_path / "text").accuracy >= 75
    distill("cnn_4", transfer, "kd", epochs=1, out=tmp_path / "images")
    distill("bag_32", answered, "kd", epochs=1, optimizer="sgd", out=tmp_path / "sgd")
    distill("cnn_4", transfer, "kd", epochs=1, optimizer="adamw", out=tmp_path / "adamw")
    distill("bag_32", answered, "kd", epochs=1, learning_rate=0.01, out=tmp_path / "rate")
    found = {run.name: json.loads((run / "run.json").read_text())["settings"] for run in tmp_path.iterdir()}
    assert {name: (settings["optimizer"], settings["learning_rate"]) for name, settings in found.items()} == {
        "text": ("adamw", 0.003),
        "images": ("sgd", 0.05),
        "sgd": ("sgd", 0.05),
        "adamw": ("adamw", 0.003),
        "rate": ("adamw", 0.01),
    }
    named = DistillSettings.of({"student": "transformer_32_1"}), TeachSettings.of({"model": "bag_32"})
    assert [(each.train.optimizer, each.train.learning_rate) for each in named] == [("adamw", 0.003)] * 2
    assert DistillSettings.of({}).train.optimizer == "sgd"


def test_answers_do_not_depend_on_how_texts_come(run, texts):
    student = run.student
    logits = student.logits(texts)
    assert torch.equal(student.logits(texts.inputs), logits)
    assert torch.equal(student.logits(student.read(texts)), logits)
    torch.testing.assert_close(student.logits(texts.inputs[0]), logits[:1])
    torch.testing.assert_close(student(texts.inputs[:3]), logits[:3])
    assert student.features(texts).shape == (84, 128)
    assert (student.input_shape, student.class_names) == ((256,), ("animal", "plant"))


def test_a_student_is_loaded_with_its_hashing(run, texts, tmp_path):
    student = load(run.directory)
    assert torch.equal(student.logits(texts), run.student.logits(texts))
    card = json.loads((run.directory / "run.json").read_text())["student"]
    assert card["hashing"] == {"length": 256, "buckets": 2**14, "ngrams": [3]}
    # A hashing of one's own goes the same way.
    part = TransferSet(texts, {"logits": torch.zeros(84, 2)})
    own = distill("bag_32", part, "kd", epochs=1, preprocess=models.Hashing(40, 500), out=tmp_path)
    assert load(tmp_path).input_shape == (40,)
    assert torch.equal(load(tmp_path).logits(texts), own.student.logits(texts))


def test_a_text_student_resumes_to_the_same_weights(answered, tmp_path):
    def stop(done, total, figures):
        if done == 2:
            raise InterruptedError

    given = {"epochs": 3, "learning_rate": 0.01, "optimizer": "adamw"}
    whole = distill("bag_32", answered, "ckd", **given)
    with pytest.raises(InterruptedError):
        distill("bag_32", answered, "ckd", **given, out=tmp_path, callbacks=[Shown(stop, 3)], checkpoint_seconds=0.0)
    assert (tmp_path / "checkpoint.bin").exists()
    parts = distill("bag_32", answered, "ckd", **given, out=tmp_path).student.state_dict()
    assert all(torch.equal(parts[name], value) for name, value in whole.student.state_dict().items())


@pytest.mark.parametrize("name", ["bag_32", "transformer_32_1"])
def test_onnx_takes_token_ids(answered, texts, tmp_path, name):
    import onnx
    import onnxruntime

    student = distill(name, answered, "kd", epochs=1).student
    path = student.export(tmp_path / "student.onnx")
    about = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert about["class_names"] == ["animal", "plant"]
    ids = models.Hashing(**about["hashing"])(texts.inputs).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type) for i in session.get_inputs()] == [("token_ids", "tensor(int32)")]
    for count in (1, 2, 84):
        (found,) = session.run(["logits"], {"token_ids": ids[:count]})
        np.testing.assert_allclose(found, student.logits(texts[:count]).numpy(), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_text_is_refused(answered, texts, tmp_path):
    image = data.from_tensors(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), [0, 1, 0, 1])
    shown = TransferSet(image, {"logits": torch.zeros(4, 2)})
    for student, transfer, method, says in (
        ("cnn_4", answered, "kd", "this student reads images or vectors, and the inputs are text"),
        ("bag_32", shown, "kd", "this student reads text, and the inputs are images or vectors"),
        ("bag_32", answered, "mixup", "mixes images or vectors, and the inputs are text"),
        ("bag_32", answered, "cutmix", "mixes images or vectors, and the inputs are text"),
        ("transformer_32_1", answered, "tf_fd", "has no stage1, stage2"),
    ):
        with pytest.raises(UserError, match=says):
            distill(student, transfer, method, out=tmp_path / "run")
        with pytest.raises(UserError, match=says):
            check(student, transfer.pool, method, answer={"logits": torch.zeros(1, 2)})
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="the text in row 1 is empty; leave it out"):
        data.from_tensors(["a", " \n"])


def test_inputs_of_another_kind_are_refused(run):
    for inputs, says in (
        (["a", ""], "text 1 is empty; leave it out"),
        (torch.zeros(2, 256), "takes texts, not images or vectors"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "takes texts, not images or vectors"),
        (torch.zeros(2, 9, dtype=torch.int32), r"of shape \(256,\), not \(9,\)"),
    ):
        with pytest.raises(UserError, match=says):
            run.student.predict(inputs)
