"""Jobs in real processes that raise, die, are killed, or lose their parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tuition.errors import Notice
from tuition.studies.executor import run_parallel

JOBS = '''
import logging, os, signal, time, warnings
from pathlib import Path
from tuition.errors import Notice, UserError

def square(job):
    """The first job waits for the third to begin, which a worker does once the second is finished."""
    folder, x = job
    Path(folder, str(x)).touch()
    while x == 0 and not Path(folder, "2").exists():
        time.sleep(0.01)
    return x * x

def odd(x):
    if x == 1:
        raise UserError("one is too few; take two.")
    if x == 2:
        raise KeyError("no such thing")
    if x == 3:
        os._exit(7)
    if x == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    if x == 5:
        return lambda: None
    return x

def noticed(x):
    warnings.warn(f"{x % 2} of 2 inputs are odd", Notice)
    logging.getLogger("tuition.data.files").warning("a file is passed over")
    return x

def threads(_):
    import torch
    return torch.get_num_threads(), os.getpid()

def linger(folder):
    """Says who it is, and takes an hour."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(3600)
'''


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "executor_jobs.py").write_text(JOBS)
    sys.path.insert(0, str(folder))
    import executor_jobs

    yield executor_jobs
    sys.path.remove(str(folder))


def test_every_job_once_in_any_order(jobs, tmp_path):
    outcomes = list(run_parallel(jobs.square, [(tmp_path, i) for i in range(6)], workers=2))
    assert sorted((o.index, o.result, o.error) for o in outcomes) == [(i, i * i, None) for i in range(6)]
    assert outcomes[0].index == 1  # job 0 takes longer, and nobody waits for it
    assert list(run_parallel(jobs.square, [])) == []


def test_failures_are_isolated(jobs):
    outcomes = {o.index: o for o in run_parallel(jobs.odd, range(8), workers=1)}
    assert [outcomes[i].result for i in (0, 6, 7)] == [0, 6, 7]
    assert all(outcomes[i].result is None for i in range(1, 6))
    assert outcomes[1].error == "one is too few; take two."
    assert "KeyError: 'no such thing'" in outcomes[2].error
    assert "Traceback" in outcomes[2].error
    assert outcomes[3].error == "its process ended with exit code 7"
    assert outcomes[4].error == "its process was killed, perhaps because memory ran out"
    assert "pickle" in outcomes[5].error


def test_notices_are_given_here_each_once(jobs, capfd):
    with pytest.warns(Notice) as given:
        assert sorted(o.result for o in run_parallel(jobs.noticed, range(5), workers=2)) == [0, 1, 2, 3, 4]
    assert sorted(str(each.message) for each in given) == ["0 of 2 inputs are odd", "1 of 2 inputs are odd"]
    assert capfd.readouterr().err == ""  # nothing raw, and nothing of the data, which this process has read


def test_cores_are_shared_out(jobs):
    workers = [o.result for o in run_parallel(jobs.threads, range(3), workers=1, threads=1)]
    assert {threads for threads, _ in workers} == {1}
    assert len({pid for _, pid in workers}) == 1  # a worker serves many jobs
    cores = len(os.sched_getaffinity(0))
    assert [o.result[0] for o in run_parallel(jobs.threads, [0])] == [cores]


def test_stopping_kills_the_workers(jobs, tmp_path):
    before = _children(os.getpid())  # of other tests, such as a browser
    outcomes = run_parallel(jobs.square, range(100), workers=2)
    next(outcomes)
    children = _children(os.getpid()) - before
    outcomes.close()
    assert children
    assert not any(_alive(pid) for pid in children)


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=["interrupt", "kill -9"]
)
def test_workers_end_with_their_parent(jobs, tmp_path, how, code):
    """In the middle of a long job, and without a word; Ctrl-C reaches the whole group, as from a terminal."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(Path(jobs.__file__).parent)!r})
            import executor_jobs
            from tuition.studies.executor import run_parallel

            if __name__ == "__main__":
                try:
                    list(run_parallel(executor_jobs.linger, [{str(tmp_path / "pids")!r}] * 3, workers=2))
                except KeyboardInterrupt:
                    sys.exit(130)
            """
        )
    )
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    pids = _wait(lambda: len(os.listdir(tmp_path / "pids")) == 2 and os.listdir(tmp_path / "pids"))
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)
    else:
        parent.send_signal(how)
    assert parent.wait(120) == code
    _wait(lambda: not any(_alive(int(pid)) for pid in pids))
    assert parent.stderr.read() == ""


def _wait(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return result


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(p) for p in children if "resource_tracker" not in Path(f"/proc/{p}/cmdline").read_text()}
