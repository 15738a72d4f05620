"""A training step of every black-box method against the bare step of the same student, and against the machine's peak.

    python benchmarks/step.py [--quick] [--json FILE] [--device cpu] [--students wrn_16_2 vgg8] [--methods kd crd]

Image for image. ckd_published forwards both sides of its pairs apart, half a batch each; "apart" is its ratio to a bare
step that does so too. GFLOP/s are those of the whole step, by the student's
convolutions and matrix products alone; the peak is that of a large matrix product, float32 on a CPU and bfloat16 on
CUDA.
"""

import statistics
import time

import torch
from common import BATCH, BLACK_BOX, Training, arguments, compare, ratio, report, transfer_set, wait

from tuition.training.cpu_threads import step_flops

STUDENTS = ["wrn_16_2", "vgg8", "resnet32", "resnet8"]
TARGET = 1.03


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--students", nargs="+", default=None)
    parser.add_argument("--methods", nargs="+", default=None)
    given = parser.parse_args()
    students = given.students or (["cnn_4"] if given.quick else STUDENTS)
    methods = given.methods or BLACK_BOX
    transfer = transfer_set(320 if given.quick else 1600)
    top = peak(torch.device(given.device), 256 if given.quick else 4096)
    rows = []
    for student in students:
        for method, (ours, bare, *apart) in compare(student, methods, given, transfer).items():
            flops = step_flops(Training.of(student, "ce", transfer, torch.device("cpu")).student, BATCH) / BATCH
            found = ratio(ours, bare)
            row = {
                "student": student,
                "method": method,
                "bare ms": 1000 * BATCH * statistics.median(bare),
                "step ms": 1000 * BATCH * statistics.median(ours),
                "ratio": found,
                "apart": ratio(ours, apart[0]) if apart else None,
                "met": found <= TARGET,
                "GFLOP/s": flops / statistics.median(ours) / 1e9,
                "of peak %": 100 * flops / statistics.median(ours) / top,
            }
            rows.append(row)
    print(f"peak {top / 1e9:.4g} GFLOP/s")
    report("step", rows, given)


def peak(device: torch.device, n: int) -> float:
    """FLOP/s of a product of two (n, n) matrices, the best of several."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        wait(device)
        begun = time.perf_counter()
        torch.mm(a, b)
        wait(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * n**3 / best


if __name__ == "__main__":
    main()
