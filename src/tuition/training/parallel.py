"""Several processes train one student, each on its share of every batch (torch.distributed).

Every process draws the same batches, forwards its share of the rows, and holds the same weights. What makes W processes
equal to one: the mean over processes of a term's value, and of its gradient, is that of the whole batch (`Term.over`
says how a term comes to that), and what is decided is decided from figures that all processes share.
In a single process nothing here is called, or it changes nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tuition.errors import UserError

T = TypeVar("T")


class ElsewhereError(RuntimeError):
    """The first process failed, and says why."""


_alone = False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within, this process is the only one."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def count() -> int:
    """How many processes train together: those of torch.distributed's group, where one is initialised."""
    if _alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def share(rows: int, groups: tuple[int, int] | None, device: torch.device) -> Tensor:
    """Positions in a batch of `rows` of those that this process forwards, equally many to within one.

    Of groups (see `Batch`) each process has whole ones, in the same order of sides.
    """
    p, q = groups if groups is not None else (1, 0)
    m = rows // (p + q)
    mine = torch.arange(m, device=device).tensor_split(count())[rank()][:, None]
    left, right = (torch.arange(size, device=device) for size in (p, q))
    return torch.cat([(mine * p + left).flatten(), (m * p + mine * q + right).flatten()])


def check_share(units: int, what: str) -> None:
    """Refuse batches of so few rows (or groups) that a process would have less than two, which batch norm needs."""
    if count() > 1 and units < 2 * count():
        raise UserError(
            f"batches of {units} {what} are too small for {count()} processes; "
            f"take at most {max(1, units // 2)}, or larger batches."
        )


def gather(x: Tensor, index: Tensor, rows: int) -> Tensor:
    """The whole batch's (rows, ...), of which every process has the part x (b, ...) at its `index` (b,).

    For losses that every process computes from the whole batch alike: the gradient is W times that of the own rows, so
    that its mean over the processes is right.
    """
    return x if count() == 1 else _Gather.apply(x, index, rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(index)
        # A sum with zeros, which is exact: it takes shares of any size and order, on every backend.
        whole = x.new_zeros(rows, *x.shape[1:])
        whole[index] = x
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad[index] * count(), None, None


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Put the mean over the processes in place of each tensor; those of one dtype travel together."""
    if count() == 1:
        return
    for dtype in sorted({x.dtype for x in tensors}, key=str):
        alike = [x for x in tensors if x.dtype == dtype]
        flat = torch.cat([x.reshape(-1) for x in alike])
        dist.all_reduce(flat)
        flat /= count()
        parts = flat.split([x.numel() for x in alike])
        torch._foreach_copy_(alike, [part.view(x.shape) for part, x in zip(parts, alike, strict=True)])


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average what backward left; all processes have gradients of the same parameters."""
    average([p.grad for p in parameters if p.grad is not None])


def average_buffers(*modules: nn.Module) -> None:
    """Average running statistics. They are linear in those of batches, so once an epoch is as good as every step."""
    average([x for module in modules for x in module.buffers() if x.is_floating_point()])


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    if count() == 1:
        return number
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, number)
    return max(found)


def first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process; it is called there alone, and the others are told.

    Raises:
        Exception: what `make` raised; in the others a UserError of the same words, or an `ElsewhereError`.
    """
    if count() == 1:
        return make()
    told: list[Any] = [None, None]
    if rank() > 0:
        dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        return told[0]
    try:
        made = make()
    except Exception as error:
        # Not the error itself, which may not survive the journey.
        told[1] = UserError(str(error)) if isinstance(error, UserError) else ElsewhereError(repr(error))
        dist.broadcast_object_list(told, src=0)
        raise
    dist.broadcast_object_list([made, None], src=0)
    return made


def check_same(**held: Any) -> None:
    """Refuse to begin where the processes hold different things of one name.

    Raises:
        UserError: in every process.
    """
    if count() == 1:
        return
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, held)
    for name in held:
        if any(other[name] != found[0][name] for other in found):
            raise UserError(f"the processes do not have the same {name.replace('_', ' ')}; give each of them the same.")


# -- the command line in processes that torchrun has started -----------------------------------------------------------


def launched(
    command: Callable[[], tuple[int, str]], unexpected: Callable[[Exception], tuple[int, str]]
) -> tuple[int, str]:
    """The exit code of `command` and the message about it, as one of the processes that torchrun has started.

    What `command` raises is turned into these by `unexpected`.

    What all but the first print is dropped. When some fail, or all are stopped, the first of them alone has its say.
    """
    store, here, processes = next(dist.rendezvous("env://"))
    code, message = _joined(command, unexpected, store, here, processes)
    if code == 0:
        return code, message
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    with contextlib.suppress(dist.DistError):  # the store has ended, and with it whoever had a say
        if store.compare_set(f"tuition failed {attempt}", "", str(here)) == str(here).encode():
            return code, message
    return code, ""


def _joined(
    command: Callable[[], tuple[int, str]],
    unexpected: Callable[[Exception], tuple[int, str]],
    store: dist.Store,
    here: int,
    processes: int,
) -> tuple[int, str]:
    """The outcome of `command` in a process group, on the GPU of this process, where there are any."""
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    if 0 < gpus <= local:
        return 2, f"Error: there are {gpus} GPUs here; start as many processes."
    if gpus:
        torch.cuda.set_device(local)
    # Asking a teacher may take days, while the others wait; one that ends is noticed without any timeout.
    forever, backend = timedelta(days=30), "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=here, world_size=processes, timeout=forever)
    with open(os.devnull, "w") as silence, contextlib.ExitStack() as quiet:
        if here > 0:
            quiet.enter_context(contextlib.redirect_stdout(silence))
            quiet.enter_context(contextlib.redirect_stderr(silence))
        try:
            code, message = command()
        except ElsewhereError:
            return 1, ""
        except Exception as error:
            if isinstance(error, dist.DistError) or "gloo/" in str(error):
                return 1, "Error: another process has ended; give the same command again to go on from here."
            return unexpected(error)
    if code == 0:
        dist.destroy_process_group()
    return code, message
