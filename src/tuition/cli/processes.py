"""The command line in processes that torchrun has started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from tuition.training.parallel import ElsewhereError

Outcome = tuple[int, str]  # an exit code, and the message about it


def launched(command: Callable[[], Outcome], unexpected: Callable[[Exception], Outcome]) -> Outcome:
    """The outcome of `command` in one of the processes that torchrun has started.

    `unexpected` turns what `command` raises into an outcome. What all processes but the first print is dropped. When
    some fail, or all are stopped, only the first of them reports it.
    """
    store, here, processes = next(dist.rendezvous("env://"))
    code, message = _joined(command, unexpected, store, here, processes)
    if code == 0:
        return code, message
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    with contextlib.suppress(dist.DistError):  # the store has ended with the process that held it
        if store.compare_set(f"tuition failed {attempt}", "", str(here)) == str(here).encode():
            return code, message
    return code, ""


def _joined(
    command: Callable[[], Outcome],
    unexpected: Callable[[Exception], Outcome],
    store: dist.Store,
    here: int,
    processes: int,
) -> Outcome:
    """The outcome of `command` in a process group, on the GPU of this process, where there are any."""
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    if 0 < gpus <= local:
        return 2, f"Error: there are {gpus} GPUs here; start {gpus} processes."
    if gpus:
        torch.cuda.set_device(local)
    # Asking a teacher may take days, while the others wait. A process that ends is noticed without any timeout.
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
                return 1, "Error: another process has ended; give the same command again to resume."
            return unexpected(error)
    if code == 0:
        dist.destroy_process_group()
    return code, message
