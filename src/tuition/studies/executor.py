"""Jobs in parallel processes of this machine: failures isolated, Ctrl-C safe, cores shared out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from tuition.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one job: its result, or a sentence why there is none."""

    index: int
    result: Result | None
    error: str | None = None


def run_parallel(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int | None = None, threads: int | None = None
) -> Iterator[Outcome[Result]]:
    """Call `function` on every job in worker processes, and yield outcomes as they come.

    A job that raises, or whose process dies, yields an outcome with an error; the others go on. Stopping the iteration
    (Ctrl-C, or closing the generator) kills the workers.

    Args:
        function: importable by name, called with one job; both travel by pickle.
        workers: processes; by default one a core.
        threads: of each process; by default an equal share of the cores.
    """
    cores = os.process_cpu_count() if hasattr(os, "process_cpu_count") else len(os.sched_getaffinity(0))
    workers = min(workers or cores, len(jobs))
    threads = threads or max(1, cores // max(workers, 1))
    # Workers start afresh: a forked child would inherit threads, locks and the accelerator's state.
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(jobs))[::-1]
    pipes: dict[Connection, tuple[BaseProcess, int]] = {}

    def give(pipe: Connection, process: BaseProcess) -> None:
        if waiting:
            index, job = waiting.pop()
            pipe.send(job)
            pipes[pipe] = (process, index)
        else:
            pipe.send(None)
            pipe.close()
            process.join()

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, function, threads), daemon=True)
        process.start()
        theirs.close()
        give(ours, process)

    try:
        for _ in range(workers):
            start()
        while pipes:
            for pipe in wait(list(pipes)):
                assert isinstance(pipe, Connection)
                process, index = pipes.pop(pipe)
                try:
                    result, error = pipe.recv()
                except EOFError:
                    process.join()
                    if waiting:
                        start()
                    yield Outcome(index, None, f"its process died with exit code {process.exitcode}")
                    continue
                give(pipe, process)
                yield Outcome(index, result, error)
    finally:
        for process, _ in pipes.values():
            process.kill()


def _work(pipe: Connection, function: Callable[[Any], Any], threads: int) -> None:
    # The parent decides what Ctrl-C means; it ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)
    answer: tuple[Any, str | None]
    try:
        while (job := pipe.recv()) is not None:
            try:
                answer = function(job), None
            except UserError as error:
                answer = None, str(error)
            except Exception:
                answer = None, traceback.format_exc()
            pipe.send(answer)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone, and with it whoever wanted the result
