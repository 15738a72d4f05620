"""A pool that does not fit in memory: asked, stored, read, trained on and evaluated; seconds and peak memory of each.

    python benchmarks/streaming.py [--rows 2000000] [--json FILE] [--folder DIR] [--students cnn_8 resnet8]

The pictures are 3x32x32, noise over one of ten patterns, written block by block into a temporary folder that is removed
at the end (6.2 GB for two millions, and 0.4 GB of answers). Peaks are of the whole process; "anonymous" is what the
kernel could not drop. Then the price: how long a step takes from disk, against one from memory.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar
from unittest import mock

import numpy as np
import torch
from common import BATCH, arguments, interleaved, ratio, report
from torch import nn

from tuition import ResponseStore, data, distill, models, teachers
from tuition.data import Pool, TransferSet, ondisk
from tuition.training import Student, methods
from tuition.training.batches import Batches
from tuition.training.cpu_threads import using
from tuition.training.learner import Learner, step

CLASSES, SHAPE, BLOCK = 10, (3, 32, 32), 10_000
T = TypeVar("T")


class Watch(threading.Thread):
    """The largest RSS and anonymous memory of this process (MiB), looked at every hundredth of a second (Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = [0.0, 0.0], threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.look()

    def look(self) -> None:
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        now = [int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")]
        self.peak = [max(pair) for pair in zip(self.peak, now, strict=True)]

    def __enter__(self) -> Self:
        self.look()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()
        self.look()


def timed(rows: list[dict[str, Any]], what: str, function: Callable[[], T]) -> T:
    begun = time.perf_counter()
    with Watch() as watch:
        found = function()
    row = {
        "what": what,
        "seconds": time.perf_counter() - begun,
        "RSS MiB": watch.peak[0],
        "anonymous MiB": watch.peak[1],
    }
    rows.append(row)
    print(row, flush=True)
    return found


def generate(folder: Path, rows: int, seed: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(7).integers(0, 128, (CLASSES, *SHAPE), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, rows)
    np.save(folder / "labels.npy", labels)
    with (folder / "inputs.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, BLOCK):
            part = patterns[labels[start : start + BLOCK]]
            part += np.frombuffer(rng.bytes(part.size), np.uint8).reshape(part.shape) >> 1
            file.write(part.data)


def steps(student: str, pool: Pool) -> Iterator[int]:
    """Steps of kd on a pool with made-up answers, on and on."""
    transfer = TransferSet(
        pool, {"logits": torch.randn(len(pool), CLASSES, generator=torch.Generator().manual_seed(0))}
    )
    model = models.create(student, num_classes=CLASSES, seed=0)
    whole = Student(model, models.Preprocess.fit(pool.inputs), input_shape=SHAPE).train()
    task = methods.Task(pool.labels, transfer.responses, CLASSES, 0, model, torch.zeros(2, *SHAPE))
    objective = methods.create("kd", task)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.01, fused=True)
    batches = Batches(
        transfer,
        objective,
        batch_size=BATCH,
        augment=pool.augment,
        num_classes=CLASSES,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
    )
    learner = Learner(whole, objective)
    with using(0, whole, BATCH):
        while True:
            for drawn in batches.draw():
                step(learner, optimizer, batches.batch(*drawn))
                yield len(drawn[0])


def price(folder: Path, student: str, quick: bool) -> dict[str, Any]:
    inside = steps(student, data.load(folder))
    next(inside)
    with mock.patch.object(ondisk, "IN_MEMORY", 0):
        outside = steps(student, data.load(folder))
        blocks, seconds = (2, 0.0) if quick else (5, 4.0)
        times = interleaved([outside, inside], torch.device("cpu"), blocks=blocks, seconds=seconds)
    return {"what": f"a step of {student} from disk, against one from memory", "ratio": ratio(*times)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=None, help="pictures; two millions by default")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--students", nargs="+", default=["cnn_8", "resnet8"], help="whose steps are compared")
    given = parser.parse_args()
    count = given.rows or (2000 if given.quick else 2_000_000)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        timed(rows, "begin", lambda: None)
        timed(rows, "generate", lambda: generate(folder / "train", count, 0))
        generate(folder / "test", max(100, count // 20), 1)
        pool, test = data.load(folder), data.load(folder, split="test")
        timed(rows, "digest", lambda: pool.digests)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            linear = nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES))
            small = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, CLASSES))
        teacher = teachers.from_torch(linear, name="linear")
        store = ResponseStore(str(folder / "responses.db"), dtype="float16")
        ask = lambda: store.ask(teacher, pool, budget=count, batch_size=1000, check_answers=False)  # noqa: E731
        timed(rows, "ask and store", ask)
        transfer = timed(rows, "read again", ask)
        run = timed(
            rows,
            "distill, one epoch",
            lambda: distill(small, transfer, "mse", epochs=1, batch_size=256, learning_rate=0.01, device="cpu"),
        )
        found = timed(rows, "evaluate on the pool", lambda: run.student.evaluate(pool))
        print(f"accuracy {found.accuracy:.1f} %, on test {run.student.evaluate(test).accuracy:.1f} %")
        timed(rows, "end", lambda: None)
        part = folder / "part"
        part.mkdir()
        generate(part / "train", 2000 if given.quick else 20_000, 2)
        rows += [price(part, student, given.quick) for student in given.students]
    columns = ("what", "seconds", "RSS MiB", "anonymous MiB", "ratio")
    report("streaming", [dict.fromkeys(columns) | row for row in rows], given)


if __name__ == "__main__":
    main()
