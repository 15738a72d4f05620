"""Several processes train one student, each on its share of every batch (torch.distributed).

Every process draws the same batches, forwards its share of the inputs, and gathers the outputs of all. So every process
computes the loss of the complete batch, and DistributedDataParallel averages the gradients. In a single process nothing
here changes anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tuition.errors import UserError

T = TypeVar("T")


class ElsewhereError(RuntimeError):
    """The first process failed, and says why."""


def count() -> int:
    """How many processes train together: those of torch.distributed's group, where one is initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def averaged(module: nn.Module) -> nn.Module:
    """`module`, with gradients that are averaged over the processes during backward."""
    if count() == 1:
        return module
    # Where parameters may be unused, the buckets of gradients stay as they are, so that they add in one order, and a
    # resumed run ends in the same bits. Where all are used, a warning is written; this parameter prevents it.
    module = nn.Sequential(module)
    module.register_parameter("unused", nn.Parameter(torch.zeros((), device=next(module.parameters()).device)))
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of the name, which older versions need
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)


def release(module: nn.Module) -> None:
    """End what `averaged` began; to be called before the process group ends.

    The last to hold a process group ends the group's threads. A reducer would do that with the interpreter's lock held,
    which those threads may be waiting for: a deadlock. It lives as long as the module, which a cycle of references may
    keep until the garbage collector finds it.
    """
    if isinstance(module, nn.parallel.DistributedDataParallel):
        del module.reducer, module.logger


def gather(x: Tensor, own: Tensor, rows: int) -> Tensor:
    """The outputs of the complete batch (rows, ...), of which this process has the part x (b, ...) at `own` (b,).

    Every process computes the same loss from them. The gradient of x is multiplied by the number of processes, so that
    the mean over the processes is right.
    """
    return x if count() == 1 else _Gather.apply(x, own, rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(own)
        # A sum with zeros, which is exact: it takes shares of any size and order, on every backend.
        complete = x.new_zeros(rows, *x.shape[1:])
        complete[own] = x
        dist.all_reduce(complete)
        return complete

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (own,) = ctx.saved_tensors
        return grad[own] * count(), None, None


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Put the mean over the processes in place of each tensor."""
    for x in tensors if count() > 1 else ():
        dist.all_reduce(x.div_(count()))


def all_of(value: T) -> list[T]:
    """The value of every process, in their order."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, which alone calls it.

    Raises:
        Exception: what `make` raised; in the others a UserError of the same words, or an `ElsewhereError`.
    """
    if count() == 1:
        return make()
    message: list[Any] = [None, None]
    error = None
    if rank() == 0:
        try:
            message[0] = make()
        except Exception as raised:
            error = raised
            # A new error, because the one that was raised may not survive the journey.
            message[1] = UserError(str(raised)) if isinstance(raised, UserError) else ElsewhereError(repr(raised))
    dist.broadcast_object_list(message, src=0)
    if error is not None or message[1] is not None:
        raise error or message[1]
    result: T = message[0]
    return result


def check_same(**values: Any) -> None:
    """Refuse to begin where the processes hold different things of one name.

    Raises:
        UserError: in every process.
    """
    everyones = all_of(values)
    for name, value in everyones[0].items():
        if any(other[name] != value for other in everyones):
            raise UserError(f"the processes do not have the same {name.replace('_', ' ')}; give each of them the same.")
