"""A model of timm as student, and one as teacher. Skipped where timm does not import with this torch."""

import pytest
import torch

from tuition import ResponseStore, data, distill, load, models, teachers

try:
    import timm  # noqa: F401
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
