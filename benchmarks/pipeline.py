"""Images a second, against the usual way: DataLoader and PIL transforms, NCHW, both halves of a CKD pair apart.

    python benchmarks/pipeline.py [--quick] [--json FILE] [--device cpu] [--students wrn_16_2 resnet8]

"data" are batches alone: random crop, flip, normalisation. "training" is all of it: the method ckd as `distill` trains
it, against CKD on sampled pairs with SGD, written as it usually is; on CUDA float32 without autocast. Image for image,
so the two images of a pair count as two. Each number of DataLoader workers is tried, and the best one compared with.
"""

import argparse
import statistics
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from common import BATCH, CLASSES, Training, arguments, interleaved, report, transfer_set
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from tuition import models
from tuition.data import TransferSet
from tuition.training.cpu_threads import using

MEAN, STD = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
TARGET = {"cpu": 1.15, "cuda": 4.0}


class Pairs(Dataset):
    """Pairs of images with their answers and labels; crop, flip, to float and normalised, image by image."""

    def __init__(self, transfer: TransferSet) -> None:
        self.images = transfer.pool.inputs.permute(0, 2, 3, 1).numpy()
        self.logits, self.labels = transfer.responses["logits"], transfer.labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, first: int) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]:
        second = int(torch.randint(len(self), ()))
        return tuple((self.seen(row), self.logits[row], self.labels[row]) for row in (first, second))

    def seen(self, row: int) -> torch.Tensor:
        image = ImageOps.expand(Image.fromarray(self.images[row]), border=4)
        left, top, flip = torch.randint(9, ()).item(), torch.randint(9, ()).item(), torch.rand(()).item() < 0.5
        image = image.crop((left, top, left + 32, top + 32))
        image = ImageOps.mirror(image) if flip else image
        array = (np.asarray(image, np.float32) / 255 - MEAN) / STD
        return torch.from_numpy(array.transpose(2, 0, 1).copy())


def loader(transfer: TransferSet, workers: int) -> Iterator[list[list[torch.Tensor]]]:
    # 64 pairs a batch, as published.
    found = DataLoader(
        Pairs(transfer),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    while True:
        yield from found


def usual_data(transfer: TransferSet, workers: int) -> Iterator[int]:
    for (a, _, _), (b, _, _) in loader(transfer, workers):
        yield len(a) + len(b)


def usual_training(student: str, transfer: TransferSet, workers: int, device: torch.device) -> Iterator[int]:
    model = models.create(student, num_classes=CLASSES, seed=0).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for pair in loader(transfer, workers):
        (a, ta, ya), (b, tb, yb) = [[x.to(device, non_blocking=True) for x in side] for side in pair]
        difference = model(a) - model(b)
        loss = F.mse_loss(difference, ta - tb)
        loss = loss + F.mse_loss(difference, (F.one_hot(ya, CLASSES) - F.one_hot(yb, CLASSES)).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield len(a) + len(b)


def our_data(transfer: TransferSet, device: torch.device) -> Iterator[int]:
    training = Training.of("cnn_4", "ckd", transfer, device)
    while True:
        for batch in training.batches.epoch():
            training.student.preprocess(batch.inputs)
            yield len(batch.rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--students", nargs="+", default=None)
    parser.add_argument("--workers", nargs="+", type=int, default=None, help="of the DataLoader; 0 is the main process")
    given = parser.parse_args()
    device = torch.device(given.device)
    workers = given.workers or ([0] if given.quick else [0, 2] if device.type == "cpu" else [4, 8])
    students = given.students or (["cnn_4"] if given.quick else ["wrn_16_2", "resnet8", "vgg8"])
    transfer = transfer_set(160 if given.quick else 1600)
    rows = [row("data", [our_data(transfer, device), *(usual_data(transfer, n) for n in workers)], workers, given)]
    for student in students:
        training = Training.of(student, "ckd", transfer, device)
        with using(0, training.student, BATCH):
            usual = [usual_training(student, transfer, n, device) for n in workers]
            rows.append(row(f"training {student}", [training.steps(), *usual], workers, given))
    report("pipeline", rows, given)


def row(what: str, runs: list[Iterator[int]], workers: list[int], given: argparse.Namespace) -> dict[str, object]:
    blocks, seconds = (2, 0.0) if given.quick else (5, 2.0)
    ours, *usual = interleaved(runs, torch.device(given.device), blocks=blocks, seconds=seconds)
    best = min(range(len(usual)), key=lambda i: statistics.median(usual[i]))
    times = statistics.median(theirs / mine for mine, theirs in zip(ours, usual[best], strict=True))
    target = TARGET[torch.device(given.device).type] if what.startswith("training") else None
    return {
        "what": what,
        "images/s": 1 / statistics.median(ours),
        **{f"usual, {n} workers": 1 / statistics.median(theirs) for n, theirs in zip(workers, usual, strict=True)},
        "times as fast": times,
        "target": target,
        "met": None if target is None else times >= target,
    }


if __name__ == "__main__":
    main()
