"""A model of timm as student, and one as teacher. Skipped where timm does not import with this torch."""

import pytest
import torch

from tuition import ResponseStore, UserError, data, distill, load, models, teachers
from tuition.errors import Notice

try:
    import timm
except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
    pytest.skip(f"timm does not import here: {error}", allow_module_level=True)


def test_a_timm_student_of_a_timm_teacher(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=generator)
    pool = data.from_tensors(images, torch.arange(48) % 4)
    teacher = teachers.from_torch(
        models.create("timm:resnet10t", num_classes=4, seed=0), mean=[0.5] * 3, std=[0.25] * 3
    )
    store = ResponseStore(str(tmp_path / "responses.db"))
    transfer = store.ask(teacher, pool[:32], budget=32, check_answers=False)
    student = models.create("timm:test_resnet", num_classes=4, seed=1)
    run = distill(student, transfer, "ckd", validation=pool[32:], test=pool[32:], epochs=4, out=tmp_path / "run")
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    again = load(tmp_path / "run")
    torch.testing.assert_close(again.logits(pool), run.student.logits(pool))


def test_a_student_begins_with_weights_of_a_file(tmp_path):
    """Of a file in timm's layout all but the head is loaded, and pictures are read as timm's data config says."""
    published = timm.create_model("test_resnet", num_classes=7)
    path = tmp_path / "weights.safetensors"
    models.save_weights(published, path)
    start = models.Start(weights=str(path), resolution=48)
    made = models.make("timm:test_resnet", num_classes=4, in_channels=3, seed=0, start=start)
    mine, theirs = made.model.state_dict(), published.state_dict()
    head = published.get_classifier()
    assert isinstance(head, torch.nn.Linear)
    for name, value in theirs.items():
        assert (mine[name].shape != value.shape) == name.startswith("fc.")
        assert name.startswith("fc.") or torch.equal(mine[name], value), name
    config = timm.data.resolve_model_data_config(published)
    picture = torch.full((1, 3, 20, 20), 51, dtype=torch.uint8)
    expected = (torch.tensor(0.2) - torch.tensor(config["mean"])) / torch.tensor(config["std"])
    pixels = made.preprocess(picture)
    assert pixels.shape == (1, 3, 48, 48)
    torch.testing.assert_close(pixels.amax((0, 2, 3)), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(pixels.amin((0, 2, 3)), expected, rtol=0, atol=1e-5)


def test_random_weights_of_a_timm_name_are_said_aloud(tmp_path):
    with pytest.warns(Notice, match="random weights; set pretrained=true"):
        models.create("timm:test_resnet", num_classes=3)
    with pytest.raises(UserError, match="were not found"):
        models.make("timm:test_resnet", num_classes=3, in_channels=3, start=models.Start(weights="nothing.safetensors"))
