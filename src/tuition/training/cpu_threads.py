"""How many of PyTorch's threads a training uses on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from tuition.training.student import Student

FLOPS_PER_THREAD = 5e8


@contextmanager
def using(threads: int | None, student: Student, batch_size: int) -> Iterator[None]:
    """Within, PyTorch uses this number of threads; afterwards the number of before.

    0 is the number that a training step of the student keeps busy, at most that of before. None, or another device than
    the CPU, changes nothing.
    """
    before = torch.get_num_threads()
    if threads is not None and next(student.parameters()).device.type == "cpu":
        torch.set_num_threads(threads or min(before, busy_threads(student, batch_size)))
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def busy_threads(student: Student, batch_size: int) -> int:
    """How many threads a training step keeps busy: one for each half a GFLOP.

    Below that a second thread gains nothing (benchmarks/README.md). It costs a core and, where others use the machine,
    far more than it could gain.
    """
    return max(1, int(step_flops(student, batch_size) / FLOPS_PER_THREAD))


def step_flops(student: Student, batch_size: int) -> float:
    """Floating point operations of a training step: of convolutions and matrix products, backward twice forward."""
    training = student.training
    student.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            student(student.example().to(next(student.parameters()).device))
    finally:
        student.train(training)
    return 3 * counter.get_total_flops() / len(student.example()) * batch_size
