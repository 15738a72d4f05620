"""Tasks in parallel processes of this machine: failures are isolated, Ctrl-C is safe, cores are shared."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

from tuition import stopping
from tuition.errors import Notice, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The result of one task, or its error: a sentence, or a traceback."""

    index: int
    result: Result | None
    error: str | None = None


def run_parallel(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int | None = None, threads: int | None = None
) -> Iterator[Outcome[Result]]:
    """Call `function` on every task in worker processes, and yield outcomes in the order in which they end.

    A task that raises, or whose process dies, yields an outcome with an error; the others continue. Stopping the
    iteration (Ctrl-C, or closing the generator) kills the workers. They also end when this process dies in any way.
    A notice of a task is given here, each text once.

    Args:
        function: importable by name, called with one task; both travel by pickle.
        workers: processes; by default one a core.
        threads: of each process; by default an equal share of the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, len(tasks))
    threads = threads or max(1, cores // max(workers, 1))
    # Spawned, because a forked child would inherit threads, locks and the accelerator's state.
    context = multiprocessing.get_context("spawn")
    with _safe_path():
        resource_tracker.ensure_running()  # else the first worker's start does it, and unblocks Ctrl-C
    waiting = list(enumerate(tasks))[::-1]
    busy: dict[Connection, tuple[BaseProcess, int]] = {}
    told = set[str]()

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, function, threads), daemon=True)
        # The parent handles signals. A worker inherits this mask, so it never sees one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
        try:
            with _safe_path():
                process.start()
            busy[ours] = (process, -1)  # known from here on, so that it is killed in any case
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        give(ours, process)

    def give(pipe: Connection, process: BaseProcess) -> None:
        """Send the next task, or None, which ends the worker."""
        index, task = waiting.pop() if waiting else (-1, None)
        busy[pipe] = (process, index)
        with contextlib.suppress(BrokenPipeError):  # a worker that died between two tasks is noticed when it is read
            pipe.send(task)

    try:
        for _ in range(workers):
            start()
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                process, index = busy[pipe]
                ended, result, notices, error = _received(pipe, process)
                if ended:
                    del busy[pipe]
                    if waiting:
                        start()
                else:
                    give(pipe, process)
                tell(notices, told)
                if index >= 0:
                    yield Outcome(index, result, error)
    finally:
        for process, _ in busy.values():
            process.kill()
        for process, _ in busy.values():
            process.join()


def _received(pipe: Connection, process: BaseProcess) -> tuple[bool, Any, list[str], str | None]:
    """Whether a worker ended, as it was told to or not; and the result, notices and error of its task."""
    try:
        return False, *pipe.recv()
    except (EOFError, OSError):
        process.join()
        pipe.close()
        return True, None, [], f"its process {_ending(process.exitcode)}"


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Keep the current folder out of the import path with which processes that start within begin."""
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
        return "was killed, perhaps because memory ran out"
    return f"ended with exit code {exitcode}"


def _work(pipe: Connection, function: Callable[[Any], Any], threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_threads(threads)
    while (task := pipe.recv()) is not None:
        try:  # pickling the answer can fail too
            answer = ForkingPickler.dumps((*noting(function, task), None))
        except UserError as error:
            answer = ForkingPickler.dumps((None, [], str(error)))
        except Exception:
            answer = ForkingPickler.dumps((None, [], traceback.format_exc()))
        pipe.send_bytes(answer)


def noting(function: Callable[[Task], Result], task: Task) -> tuple[Result, list[str]]:
    """What a function returns, and the notices that it gives, which its worker leaves to the process that waits.

    What is said of data as it is read is dropped: that process has read the same data.
    """
    notices: list[str] = []
    for reader in ("files", "labels", "sources"):
        logging.getLogger(f"tuition.data.{reader}").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        others = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, Notice):
                notices.append(str(message))
            else:
                others(message, category, *place)

        warnings.showwarning = note  # type: ignore[assignment]
        warnings.simplefilter("always", Notice)
        return function(task), notices


def tell(notices: Iterable[str], told: set[str]) -> None:
    """Give the notices of a worker that were not given before."""
    for notice in notices:
        if notice not in told:
            told.add(notice)
            warnings.warn(notice, Notice, stacklevel=3)


def use_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for a torch that is imported later
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
