"""Jobs in parallel processes of this machine: failures isolated, Ctrl-C safe, cores shared out."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

from tuition import stopping
from tuition.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one job: its result, or why there is none: a sentence, or a traceback."""

    index: int
    result: Result | None
    error: str | None = None


def run_parallel(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int | None = None, threads: int | None = None
) -> Iterator[Outcome[Result]]:
    """Call `function` on every job in worker processes, and yield outcomes as they come.

    A job that raises, or whose process dies, yields an outcome with an error; the others go on. Stopping the iteration
    (Ctrl-C, or closing the generator) kills the workers; when this process dies, however it dies, they end too.

    Args:
        function: importable by name, called with one job; both travel by pickle.
        workers: processes; by default one a core.
        threads: of each process; by default an equal share of the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, len(jobs))
    threads = threads or max(1, cores // max(workers, 1))
    # Workers start afresh: a forked child would inherit threads, locks and the accelerator's state.
    context = multiprocessing.get_context("spawn")
    with _safe_path():
        resource_tracker.ensure_running()  # or the first worker's start would, and unblock Ctrl-C at that
    waiting = list(enumerate(jobs))[::-1]
    busy: dict[Connection, tuple[BaseProcess, int]] = {}

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, function, threads), daemon=True)
        # The parent decides what a signal means; a worker inherits this mask, and so never sees one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
        try:
            with _safe_path():
                process.start()
            busy[ours] = (process, -1)  # so that it is killed, whatever comes
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        give(ours, process)

    def give(pipe: Connection, process: BaseProcess) -> None:
        """The next job, or leave to go."""
        index, job = waiting.pop() if waiting else (-1, None)
        busy[pipe] = (process, index)
        with contextlib.suppress(BrokenPipeError):  # if it died between two jobs, reading from it will tell
            pipe.send(job)

    try:
        for _ in range(workers):
            start()
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                process, index = busy[pipe]
                try:
                    result, error = pipe.recv()
                except (EOFError, OSError):  # it has gone, as told or not
                    process.join()
                    result, error = None, f"its process {_ending(process.exitcode)}"
                    del busy[pipe]
                    pipe.close()
                    if waiting:
                        start()
                else:
                    give(pipe, process)
                if index >= 0:
                    yield Outcome(index, result, error)
    finally:
        for process, _ in busy.values():
            process.kill()
        for process, _ in busy.values():
            process.join()


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Processes started within do not begin with the current folder on their import path; they get this one's."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _ending(exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return "was killed, perhaps for want of memory"
    return f"ended with exit code {exitcode}"


def _work(pipe: Connection, function: Callable[[Any], Any], threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_threads(threads)
    while (job := pipe.recv()) is not None:
        try:  # to pickle, too
            answer = ForkingPickler.dumps((function(job), None))
        except UserError as error:
            answer = ForkingPickler.dumps((None, str(error)))
        except Exception:
            answer = ForkingPickler.dumps((None, traceback.format_exc()))
        pipe.send_bytes(answer)


def use_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for a torch that is imported later
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
