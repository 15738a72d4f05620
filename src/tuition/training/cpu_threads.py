"""How many threads a student keeps busy on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from tuition.training.student import Student

FLOPS_PER_THREAD = 5e8


@contextmanager
def fitting_threads(student: Student, batch_size: int) -> Iterator[None]:
    """Within, as many of PyTorch's threads are used as a training step keeps busy: one for each half a GFLOP.

    Measured (benchmarks/README.md): a second thread gains nothing below that, and costs a core and, where others use
    the machine, far more than it could gain. On another device than the CPU nothing is changed.
    """
    before = torch.get_num_threads()
    if next(student.parameters()).device.type == "cpu":
        torch.set_num_threads(max(1, min(before, int(step_flops(student, batch_size) / FLOPS_PER_THREAD))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
