"""A real Ray cluster of two nodes of one core each, a real PostgreSQL server, and processes that are really killed."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from tuition import ResponseStore
from tuition.cli import main as cli
from tuition.data import Accounts
from tuition.errors import Notice, UserError
from tuition.pipeline.checks import check_ask
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import TeachSettings, TransferSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.teach import teach
from tuition.store import BudgetError
from tuition.studies import cluster, cluster_ask, records, study, study_sources, tables
from tuition.studies.grid import Study
from tuition.studies.table import write

spec = importlib.util.spec_from_file_location("postgresql", Path(__file__).parents[1] / "store" / "postgresql.py")
postgresql = importlib.util.module_from_spec(spec)
spec.loader.exec_module(postgresql)

JOBS = """
import os, signal, threading, time, warnings
from pathlib import Path
from tuition import teachers
from tuition.errors import Notice, UserError

FOLDER = Path(__file__).parent
BATCH = 4

def odd(x):
    if x == 1:
        raise UserError("one is too few; take two.")
    if x == 2:
        raise KeyError("no such thing")
    if x == 3:
        return threading.Lock()
    if x in (4, 5):
        with open(FOLDER / f"attempts-{x}", "a") as file:
            file.write(".")
        if x == 4 or (FOLDER / f"attempts-{x}").stat().st_size < 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return x

def noticed(x):
    warnings.warn(f"{x % 2} of 2 inputs are odd", Notice)
    return x

def resources(_):
    # Waits until a job runs on another node, too.
    import torch
    (FOLDER / f"raylet-{os.getppid()}").touch()
    deadline = time.monotonic() + 120
    while len(list(FOLDER.glob("raylet-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return torch.get_num_threads(), os.getppid()

def answer(inputs):
    log("begin", len(inputs))
    time.sleep(0.2)
    log("end", len(inputs))
    return inputs.flatten(1).float()[:, :10] + 1

def log(what, count):
    with open(FOLDER / "calls", "a") as file:
        file.write(f"{what} {os.getpid()} {count}\\n")

def slow():
    return teachers.from_callable(answer, fingerprint="slow 1", name="slow")
"""

GRID = {
    "settings": {"epochs": 30, "device": "cpu"},
    "pairs": [{"teacher": "cnn_16", "student": "cnn_8"}],
    "methods": ["ce", "ckd"],
    "axes": {"calls": [40, 80], "seed": [0, 1]},
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """A module that the nodes can import."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "cluster_jobs.py").write_text(JOBS)
    sys.path.insert(0, str(folder))
    import cluster_jobs

    yield cluster_jobs
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def nodes(jobs):
    """A cluster of a head and another node, which this process joins by RAY_ADDRESS."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (tuition[ray])")
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="tuition-ray-")  # with sockets, whose paths are short
    size = {"num_cpus": 1, "object_store_memory": 100 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", f"{Path(jobs.__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("OMP_NUM_THREADS", "1")
        ray_cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        try:
            ray_cluster.add_node(**size)
            patch.setenv("RAY_ADDRESS", ray_cluster.address)
            yield ray_cluster
        finally:
            ray.shutdown()
            ray_cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server():
    if postgresql.programs() is None:
        pytest.skip("PostgreSQL's server programs are not installed (Debian: apt-get install postgresql)")
    with postgresql.server() as url:
        yield url


@pytest.fixture
def url(server):
    """A PostgreSQL store that does not exist yet."""
    return postgresql.empty_database(server)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers") / "cnn_16"
    settings = {"model": "cnn_16", "examples": 400, "epochs": 4, "learning_rate": 0.1, "device": "cpu"}
    teach(TeachSettings.of(settings), folder)
    return folder


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nowhere", "Invalid address format: nowhere"),
        ("127.0.0.1:{port}", "nothing answers at 127.0.0.1:{port}: Connection refused"),
        ("ray://127.0.0.1:{port}", "nothing answers at ray://127.0.0.1:{port}: Connection refused"),
        ("127.0.0.1:70000", "Port out of range 0-65535"),
    ],
)
def test_no_cluster_is_a_sentence(address, why):
    """In a process of its own, because this one may have joined one."""
    pytest.importorskip("ray", reason="Ray is not installed (tuition[ray])")
    command = [sys.executable, "-c", "from tuition.studies import cluster; cluster.connect()"]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and nobody listens there
        address, why = (text.format(port=silent.getsockname()[1]) for text in (address, why))
        environment = os.environ | {"RAY_ADDRESS": address}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    said = f"UserError: no Ray cluster can be joined ({why}); start one with `ray start --head`, or set RAY_ADDRESS"
    assert said in done.stderr


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_failures_are_isolated_and_the_lost_started_again(nodes, jobs):
    ended = list(cluster.run_on_cluster(jobs.odd, (x for x in (0, 1, 2, 3, 5, 6))))
    assert sorted(outcome.index for outcome in ended) == list(range(6)), "one outcome each"
    outcomes = {outcome.index: outcome for outcome in ended}
    assert [outcomes[i].result for i in (0, 4, 5)] == [0, 5, 6]
    assert outcomes[1].error == "one is too few; take two."
    assert "Traceback" not in outcomes[1].error
    assert "KeyError: 'no such thing'" in outcomes[2].error
    assert "pickle" in outcomes[3].error
    assert Path(jobs.__file__).with_name("attempts-5").stat().st_size == 2


@pytest.mark.long
def test_a_job_that_always_dies_is_given_up(nodes, jobs):
    (outcome,) = cluster.run_on_cluster(jobs.odd, [4])
    assert "lost 4 times in a row" in outcome.error
    assert Path(jobs.__file__).with_name("attempts-4").stat().st_size == 4


def test_notices_are_given_here_each_once(nodes, jobs):
    with pytest.warns(Notice) as given:
        assert sorted(o.result for o in cluster.run_on_cluster(jobs.noticed, range(4))) == [0, 1, 2, 3]
    assert sorted(str(each.message) for each in given) == ["0 of 2 inputs are odd", "1 of 2 inputs are odd"]


def test_jobs_are_spread_over_the_nodes(nodes, jobs):
    resources = [outcome.result for outcome in cluster.run_on_cluster(jobs.resources, range(6), workers=2)]
    assert {threads for threads, _ in resources} == {1}
    assert len({raylet for _, raylet in resources}) == 2


@pytest.mark.parametrize(
    ("sizes", "workers", "expected"),
    [
        ([{"CPU": 8}, {"CPU": 4}], None, (1, 0.0)),
        ([{"CPU": 8}, {"CPU": 4}], 3, (4, 0.0)),
        ([{"CPU": 8}, {"CPU": 4}], 1, (4, 0.0)),
        ([{"CPU": 8}, {"CPU": 4}], 100, (1, 0.0)),
        ([{"CPU": 16, "GPU": 1}], None, (1, 0.0625)),
        ([{"CPU": 16, "GPU": 1}], 3, (5, 0.3333)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}], 6, (5, 0.5)),
        ([{"CPU": 16, "GPU": 8}], 2, (8, 1.0)),
    ],
)
def test_shares_of_cores_and_gpus(sizes, workers, expected):
    assert cluster.share(sizes, workers) == expected


# -- studies -----------------------------------------------------------------------------------------------------------


def test_a_study_whose_worker_is_killed_gives_the_tables_of_one_machine(nodes, url, teacher, tmp_path):
    killed = []

    def kill_one(what, done, total):
        if what == "runs" and done >= 2 and not killed:
            killed.append(_kill(_wait(lambda: _busy(nodes))[0]))

    out = tmp_path / "cluster"
    shared = {**GRID, "settings": {**GRID["settings"], "store": url}}
    summary = study.run(Study.of(shared), out, teachers=[teacher], executor="ray", progress=kill_one)
    assert killed
    assert (summary.done, summary.failed, summary.left) == (8, [], 0)
    assert len(records.read(out)) == 8, "each run has one row"
    _equals_one_machine(out, teacher, tmp_path / "local", url)


@pytest.mark.long
def test_a_study_that_loses_a_node(nodes, url, teacher, tmp_path):
    extra, lost = nodes.add_node(num_cpus=1, object_store_memory=100 << 20), []

    def lose_it(what, done, total):
        if what == "runs" and done >= 3 and not lost:
            lost.append(_wait(lambda: _busy_at(extra)))
            nodes.remove_node(extra, allow_graceful=False)

    out = tmp_path / "cluster"
    shared = {**GRID, "settings": {**GRID["settings"], "store": url}}
    summary = study.run(Study.of(shared), out, teachers=[teacher], executor="ray", progress=lose_it)
    assert lost
    assert (summary.done, summary.failed, summary.left) == (8, [], 0)
    assert len(records.read(out)) == 8
    _equals_one_machine(out, teacher, tmp_path / "local", url)


def _equals_one_machine(out, teacher, local, url):
    study.run(Study.of(GRID), local, teachers=[teacher])
    assert _rows(out) == _rows(local)
    made = []
    for folder in (out, local):
        (section,) = records.sections(records.read(folder))
        write([t for t in tables.all_tables(section) if not t.name.startswith("cost")], folder / "tables")
        made.append({path.name: path.read_bytes() for path in (folder / "tables").iterdir()})
    assert made[0] == made[1]
    assert len(made[0]) > 3
    asked = {
        d
        for seed in (0, 1)
        for d in question_of(TransferSettings.of({"calls": 80, "seed": seed}), Sources()).inputs.digests
    }
    accounts = ResponseStore(url).accounts("cnn_16")
    assert (accounts.paid, accounts.unknown) == (len(asked), 0)


def test_a_study_whose_nodes_differ_is_refused_before_a_call(nodes, url, teacher, tmp_path, monkeypatch):
    shared = Study.of({**GRID, "settings": {**GRID["settings"], "store": url}})
    monkeypatch.setattr(study_sources, "versions", lambda: {"torch": "1.0"})
    with pytest.raises(UserError, match=r"^node .* has another version of torch than this machine"):
        study.run(shared, tmp_path / "s", teachers=[teacher], executor="ray")
    assert ResponseStore(url).accounts() == Accounts()
    with pytest.raises(UserError, match="this one is a file; give a PostgreSQL database"):
        study.run(Study.of(GRID), tmp_path / "s", teachers=[teacher], executor="ray")
    with pytest.raises(UserError, match=r"^node .* cannot take part: it does not see .*nowhere"):
        cluster.on_every_node(study_sources._as_seen, [], tmp_path / "nowhere")


# -- asking ------------------------------------------------------------------------------------------------------------


def _settings(url, **changes):
    usual = {"teacher": "cluster_jobs:slow", "calls": 120, "store": url, "ask_batch": 4, "budget": 124, "device": "cpu"}
    return TransferSettings.of(usual | changes)


@pytest.fixture
def calls(jobs):
    """What the slow teacher has logged."""
    path = Path(jobs.__file__).with_name("calls")
    path.unlink(missing_ok=True)
    return lambda: [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def killer(calls):
    """What kills a worker in the middle of a call, once, when it is first told of progress."""
    killed = []

    def in_a_call():
        last = {pid: what for what, pid, _ in calls()}
        return next((int(pid) for pid, what in last.items() if what == "begin"), None)

    def kill(done, total):
        if not killed:
            killed.append(_kill(_wait(in_a_call)))

    kill.killed = killed
    return kill


def test_an_ask_whose_worker_is_killed(nodes, url, calls, killer):
    """In the middle of a call: that is paid and unknown, and asked again; all else is asked once."""
    settings = _settings(url)
    accounts = cluster_ask.ask(settings, check_ask(settings, Sources()), progress=killer).accounts
    assert killer.killed
    assert accounts == Accounts(paid=124, unknown=4)
    store = ResponseStore(url)
    assert store.accounts("slow") == accounts
    begun = [(int(pid), int(count)) for what, pid, count in calls() if what == "begin"]
    assert sum(count for _, count in begun) == 124
    assert len({pid for pid, _ in begun}) == 3, "two workers, and the one that took the place of the killed"

    inputs = question_of(settings, Sources()).inputs
    transfer = store.ask(Sources().teacher(settings), inputs, budget=0)
    assert transfer.accounts == Accounts(served=120)
    assert torch.equal(transfer.responses["logits"], inputs.inputs.flatten(1).float()[:, :10] + 1)


def test_what_does_not_fit_as_a_whole_is_not_asked_in_part(nodes, url, calls):
    settings = _settings(url, budget=119)
    with pytest.raises(BudgetError, match="120 new calls do not fit in the budget of 119"):
        cluster_ask.ask(settings, check_ask(settings, Sources()))
    assert calls() == []
    assert ResponseStore(url).accounts() == Accounts()


def test_a_lost_call_that_no_longer_fits_is_said(nodes, url, killer):
    """The budget is the inputs' alone, so that one call cannot be repeated; nothing is paid beyond it."""
    settings = _settings(url, calls=60, budget=60)
    with pytest.raises(UserError, match="raise the budget and run again for the rest"):
        cluster_ask.ask(settings, check_ask(settings, Sources()), progress=killer)
    accounts = ResponseStore(url).accounts("slow")
    assert accounts.paid <= 60
    assert accounts.unknown == 4


def test_a_node_without_the_teacher(nodes, url, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("from cluster_jobs import slow")
    monkeypatch.syspath_prepend(tmp_path)
    settings = _settings(url, teacher="only_here:slow")
    with pytest.raises(UserError, match=r"^node .* cannot take part: only_here:slow cannot be imported"):
        cluster_ask.ask(settings, check_ask(settings, Sources()))


def _words(url, *more):
    words = ["tuition", "ask", "--executor", "ray", "--teacher", "cluster_jobs:slow", "--store", url]
    return [*words, "--set", "ask_batch=4", "--workers", "2", *more]


def test_an_ask_by_command(nodes, url, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", _words(url, "--calls", "20", "--cost-per-call", "0.5"))
    assert cli.main() == 0
    printed = capsys.readouterr().err
    assert "20 answers of slow are in the store." in printed
    assert "Teacher calls: 20 paid, 0 from cache, 0 failed, 0 in flight when interrupted, cost 10.00." in printed


@pytest.mark.long
def test_an_ask_that_is_stopped(nodes, url, calls):
    command = [sys.executable, "-m", *_words(url, "--calls", "1000")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _wait(lambda: len(calls()) > 20)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(120) == 130
    assert process.stderr.read() == "Stopped. Give the same command again to resume.\n"
    _wait(lambda: not _busy(nodes))
    time.sleep(0.3)
    number = len(calls())
    time.sleep(0.5)
    assert len(calls()) == number, "nobody asks any more"
    accounts = ResponseStore(url).accounts("slow")
    assert accounts.paid == sum(int(count) for what, _, count in calls() if what == "begin")


# -- processes ---------------------------------------------------------------------------------------------------------


def _busy(nodes):
    """Workers that are in the middle of a job."""
    return [pid for node in nodes.list_all_nodes() for pid in _busy_at(node)]


def _busy_at(node):
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::_call")]


def _kill(pid):
    os.kill(pid, signal.SIGKILL)
    return pid


def _wait(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return result


def _rows(folder):
    """All that runs.csv holds but the time it took."""
    return {
        (r.key, r.purpose): (r.method, r.calls, r.seed, r.accuracy, r.validation, r.paid, str(r.curve), r.status)
        for r in records.read(folder)
    }
