"""Models of timm as teachers, against timm's own transform. Skipped where timm does not import with this torch."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tuition.errors import UserError
from tuition.teachers import NotCharged, from_timm

try:
    import timm
except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
    pytest.skip(f"timm does not import here: {error}", allow_module_level=True)

from safetensors.torch import save_file


def smooth_images(count: int, height: int, width: int) -> torch.Tensor:
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(noise, (height, width), mode="bilinear") * 255).round().to(torch.uint8)


@pytest.mark.parametrize("size", [(32, 32), (200, 180), (171, 301), (160, 160)])
@pytest.mark.parametrize(
    "change", [{}, {"crop_mode": "squash"}, {"interpolation": "bilinear", "crop_pct": 1.0}, {"crop_pct": 0.875}]
)
def test_images_are_prepared_as_timm_does(
    size: tuple[int, int], change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = timm.data.resolve_model_data_config
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda model: resolve(model) | change)
    teacher = from_timm("test_vit", pretrained=False)
    images = smooth_images(2, *size)
    transform = timm.data.create_transform(**(resolve(teacher.model) | change), is_training=False)
    expected = torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
    found = teacher.prepare(images)
    assert found.shape == expected.shape == (2, 3, 160, 160)
    # Pillow rounds to bytes after each of its two passes; the rest is the same. One byte is 1 / 255 / std = 0.0078.
    assert (found - expected).abs().max() < 1.5 / 255 / 0.5
    torch.testing.assert_close(teacher(images)["logits"], teacher.model.eval()(found))


def test_weights_of_a_file(tmp_path: Path) -> None:
    first = from_timm("test_resnet", pretrained=False, num_classes=7)
    save_file(first.model.state_dict(), tmp_path / "w.safetensors")
    torch.save(first.model.state_dict(), tmp_path / "w.pt")
    for file in ("w.safetensors", "w.pt"):
        again = from_timm("test_resnet", weights=tmp_path / file, num_classes=7, layers=["layer2"])
        assert again.fingerprint == first.fingerprint
        answer = again(smooth_images(2, 40, 40))
        assert answer["logits"].shape == (2, 7)
        assert answer["layer2"].dtype == torch.bfloat16
    assert first.name.startswith("test_resnet-")
    torch.save(Path(tmp_path), tmp_path / "pickle.pt")
    for file, why in (("w.safetensors", "size mismatch|Error"), ("none.pt", "No such file"), ("pickle.pt", "Weights")):
        with pytest.raises(UserError, match=f"timm cannot make 'test_resnet' .*({why})"):
            from_timm("test_resnet", weights=tmp_path / file)


def test_the_fingerprint_knows_weights_and_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = from_timm("test_vit", pretrained=False)
    before = torch.random.get_rng_state()
    assert from_timm("test_vit", pretrained=False).fingerprint == first.fingerprint
    assert torch.equal(torch.random.get_rng_state(), before)
    resolve = timm.data.resolve_model_data_config
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda model: resolve(model) | {"crop_pct": 0.5})
    assert from_timm("test_vit", pretrained=False).fingerprint != first.fingerprint


def test_what_cannot_be_made_or_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no model 'resnet81'; try .*resnet18"):
        from_timm("resnet81")
    resolve = timm.data.resolve_model_data_config
    teacher = from_timm("test_vit", pretrained=False)
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda model: resolve(model) | {"crop_mode": "border"})
    with pytest.raises(UserError, match="bicubic resizing in mode border"):
        from_timm("test_vit", pretrained=False)
    for inputs in (["text"], torch.zeros(2, 3), torch.zeros(2, 4, 9, 9, dtype=torch.uint8)):
        with pytest.raises(NotCharged) as raised:
            teacher(inputs)
        assert not raised.value.retry


def test_grey_images_are_read_as_rgb() -> None:
    teacher, grey = from_timm("test_vit", pretrained=False), smooth_images(2, 40, 40)[:, :1]
    torch.testing.assert_close(teacher(grey), teacher(grey.expand(-1, 3, -1, -1)))
