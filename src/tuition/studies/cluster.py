"""Tasks on the nodes of a Ray cluster, with outcomes like those of the executor of one machine."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tuition import stopping
from tuition.errors import UserError, first_line
from tuition.studies.executor import Outcome, noting, tell, use_threads

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 3  # of a task whose process or node is lost


def connect() -> None:
    """Join the cluster that the environment variable RAY_ADDRESS names, or else the one this machine is a node of.

    Raises:
        UserError: Ray is not installed, the cluster was not found, or it runs another version.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError("a cluster needs Ray; install tuition[ray].") from error
    if ray.is_initialized():
        return
    try:
        _reach(os.environ.get("RAY_ADDRESS", ""))
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster can be joined ({first_line(error)}); start one with `ray start --head`, or set "
            "RAY_ADDRESS to where one is."
        ) from error
    finally:
        stopping.restore()  # Ray installs its own handler of SIGTERM


def _reach(address: str) -> None:
    """Fail soon where nothing answers at HOST:PORT, which Ray would try again and again; other forms are left to it."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.hostname and parts.port:
        try:
            socket.create_connection((parts.hostname, parts.port), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"nothing answers at {address}: {error.strerror or error}") from error


def check_store(url: str) -> None:
    """Refuse a store that is a file: the cluster's other machines would not see it, or not its locks."""
    if not url.startswith("postgres"):
        raise UserError(
            "on a cluster all nodes write to one store, and this one is a file; give a PostgreSQL database, as in "
            "--store postgresql://user@host/database (of a study: --set store=postgresql://...)."
        )


def run_on_cluster(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int | None = None, on_gpu: bool = True
) -> Iterator[Outcome[Result]]:
    """Call `function` on every task on the nodes of the cluster, and yield outcomes in the order in which they end.

    A task that raises yields an outcome with an error. One whose process or node is lost starts again elsewhere, up to
    RETRIES times, and yields one outcome. Stopping the iteration cancels running tasks; when this process dies in any
    way, the cluster cancels them.

    Args:
        function: importable by name on every node, called with one task; tasks and results travel by pickle.
        tasks: drawn when there is room for them, so that they need not all exist at once.
        workers: tasks at a time, each with an equal share of the cores and GPUs; by default one a core.
        on_gpu: whether a task takes a share of a GPU, where the cluster has any.
    """
    import ray

    connect()
    threads, gpu = share([node["Resources"] for node in _nodes()], workers)
    call: Any = ray.remote(_call).options(
        num_cpus=threads, num_gpus=gpu if on_gpu else 0, max_retries=RETRIES, scheduling_strategy="SPREAD"
    )
    waiting = enumerate(tasks)
    busy: dict[Any, int] = {}
    told = set[str]()
    try:
        while True:
            # Without a limit twice the number of cores is submitted, so that a cluster that can grow has a reason to.
            room = (workers or 2 * cores()) - len(busy)
            busy |= {call.remote(function, threads, task): index for index, task in islice(waiting, max(room, 0))}
            if not busy:
                return
            (done,), _ = ray.wait(list(busy))
            outcome = _outcome(busy.pop(done), done)
            result, notices = outcome.result or (None, [])
            tell(notices, told)
            yield replace(outcome, result=result)
    finally:
        for reference in busy:
            ray.cancel(reference, force=True)


def on_every_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What `function` returns on each node, by the node's address.

    Raises:
        UserError: the error of the first node where it fails, with the node's address.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    connect()
    references: dict[str, Any] = {}
    for node in _nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        call = ray.remote(function).options(num_cpus=0, scheduling_strategy=there)
        references[f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"] = call.remote(*arguments)
    outcomes = {address: _outcome(0, reference) for address, reference in references.items()}
    for address, outcome in outcomes.items():
        if outcome.error is not None:
            raise UserError(f"node {address} of the cluster cannot take part: {outcome.error.strip().splitlines()[-1]}")
    return {address: outcome.result for address, outcome in outcomes.items()}


def share(nodes: Sequence[Mapping[str, float]], workers: int | None) -> tuple[int, float]:
    """Cores and share of a GPU for each task, with this number of workers on nodes of these resources.

    A task never gets more cores than the smallest node has, or more than one GPU.
    """
    sizes = [int(node["CPU"]) for node in nodes]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    threads = max(1, min(sum(sizes) // workers, *sizes)) if workers and sizes else 1
    together = math.ceil((workers or sum(sizes)) / gpus) if gpus else 0
    return threads, math.floor(10_000 / together) / 10_000 if together else 0.0  # Ray counts in ten-thousandths


def cores() -> int:
    """Cores of the cluster at this moment."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _nodes() -> list[Any]:
    """The living nodes that have cores for tasks."""
    import ray

    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _call(function: Callable[[Task], Result], threads: int, task: Task) -> tuple[Result, list[str]]:
    use_threads(threads)
    return noting(function, task)


def _outcome(index: int, reference: Any) -> Outcome[Any]:
    import ray

    try:
        return Outcome(index, ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        return Outcome(index, None, str(error.cause) if isinstance(error.cause, UserError) else str(error))
    except ray.exceptions.RayError as error:
        return Outcome(
            index, None, f"its process or its node was lost {RETRIES + 1} times in a row ({first_line(error)})"
        )
