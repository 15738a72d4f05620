"""A step of `distill` against the bare step of the same student: same batch, memory format, threads and optimizer.

    python benchmarks/overhead.py [--quick] [--json FILE] [--device cpu]

The bare step is forward, cross-entropy, backward and optimizer on float batches that lie ready in memory. Ratios are
medians over five interleaved blocks.
"""

import statistics

from common import BATCH, arguments, compare, ratio, report, transfer_set

TARGET = 1.03


def main() -> None:
    given = arguments(__doc__).parse_args()
    students, methods = (["cnn_4"], ["ckd"]) if given.quick else (["resnet8", "wrn_16_2"], ["kd", "ckd"])
    transfer = transfer_set(320 if given.quick else 1600)
    rows = []
    for student in students:
        for method, (ours, bare) in compare(student, methods, given, transfer).items():
            found = ratio(ours, bare)
            rows.append(
                {
                    "student": student,
                    "method": method,
                    "bare ms": 1000 * BATCH * statistics.median(bare),
                    "distill ms": 1000 * BATCH * statistics.median(ours),
                    "ratio": found,
                    "target": TARGET,
                    "met": found <= TARGET,
                }
            )
    report("overhead", rows, given)


if __name__ == "__main__":
    main()
