"""SIGINT, SIGTERM and SIGHUP, sent to real processes: how they end, what they say, and what they keep."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A command line of its own: the handlers of `tuition`, without its heavy imports.
KEEP = """
import sys, time
from tuition import stopping
from tuition.errors import Stopped
stopping.install()
with stopping.keeping():
    try:
        print("ready", flush=True)
        time.sleep(600)
    except Stopped as stop:
        print("keeping", flush=True)
        time.sleep({keeps})
        sys.exit(128 + stop.signum)
"""
IMPORT = """
import sys
from tuition import stopping
stopping.install()
sys.path.insert(0, "")
try:
    import slow
except BaseException:  # as a library that tries several modules
    print("swallowed")
"""
SWALLOW = """
import time
from tuition import stopping
from tuition.errors import Stopped
stopping.install()
class Swallows:
    def __del__(self):  # nothing can be raised from here
        print("ready", flush=True)
        time.sleep(600)
swallows = Swallows()
del swallows
try:
    stopping.check()
except Stopped:
    print("seen")
"""


def start(program, folder, *prefix, **options):
    command = [*prefix, sys.executable, "-c", program]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ended(process):
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_the_first_signal_lets_work_be_kept(number, tmp_path):
    process = start(KEEP.format(keeps=0), tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert ended(process) == (128 + number, "keeping\n", "")


def test_a_second_signal_ends_at_once(tmp_path):
    process = start(KEEP.format(keeps=600), tmp_path)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "keeping\n"
    while process.poll() is None:  # it would end by itself after ten minutes, with another code
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert ended(process) == (130, "", "")


def test_a_launcher_and_a_terminal_that_both_send_one_count_as_one(tmp_path):
    process = start(KEEP.format(keeps=0.3), tmp_path)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)  # as systemd does
    assert process.stdout.readline() == "keeping\n"
    assert ended(process)[0] in (143, 129)  # whichever is delivered first


def test_an_import_is_left_at_once_though_it_would_swallow_the_signal(tmp_path):
    (tmp_path / "slow.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
    process = start(IMPORT, tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", "Stopped.\n")


def test_a_signal_that_was_swallowed_is_seen_later(tmp_path):
    process = start(SWALLOW, tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (0, "seen\n", "")


def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path):
    """As `nohup` has it."""
    process = start(KEEP.format(keeps=0), tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143


@pytest.mark.skipif(shutil.which("unshare") is None or os.getuid() != 0, reason="takes a process namespace")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_process_1_of_a_container_is_stopped(number, tmp_path):
    process = start(KEEP.format(keeps=0), tmp_path, "unshare", "--pid", "--fork", "--mount-proc")
    if (line := process.stdout.readline()) != "ready\n":
        pytest.skip(f"no process namespace here: {process.communicate()[1] or line}")
    (child,) = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(child), number)
    assert ended(process) == (128 + number, "keeping\n", "")


def test_the_handlers_of_the_caller_return(tmp_path):
    from tuition import stopping

    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    with stopping.handled():
        assert signal.getsignal(signal.SIGTERM) not in before.values()
    assert {number: signal.getsignal(number) for number in stopping.SIGNALS} == before


# -- the real command --------------------------------------------------------------------------------------------------

USER = """
import os, time
from tuition import teachers

def answer(inputs):
    handle = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, b"%d\\n" % len(inputs))
    os.close(handle)
    time.sleep({seconds})
    return {{"logits": inputs.float().flatten(1)[:, 10:20] / 20}}

def teacher():
    return teachers.from_callable(answer, fingerprint="1", name="t")
"""
ASK = (
    "ask --data digits --teacher user:teacher --calls 400 --set ask_batch=10 --store r.db "
    "--set check_answers=false --set concurrency={}"  # else the first request goes alone
)


def books(folder):
    """Calls paid, of unknown fate and in flight, and answers stored."""
    with contextlib.closing(sqlite3.connect(folder / "r.db")) as database:
        counts = database.execute("SELECT sum(paid), sum(unknown) FROM tuition_teachers").fetchone()
        (flying,) = database.execute("SELECT coalesce(sum(calls), 0) FROM tuition_flights").fetchone()
        (stored,) = database.execute("SELECT count(*) FROM tuition_responses").fetchone()
    return (*counts, flying, stored)


def asked(folder):
    return sum(map(int, (folder / "log").read_text().split())) if (folder / "log").exists() else 0


def ask(folder, concurrency, *prefix, seconds=0.3):
    """The command, once its teacher was asked about 50 inputs."""
    (folder / "user.py").write_text(USER.format(seconds=seconds))
    command = [*prefix, sys.executable, "-m", "tuition", *ASK.format(concurrency).split()]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while asked(folder) < 50:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "concurrency"), [(signal.SIGTERM, 4), (signal.SIGTERM, 1), (signal.SIGHUP, 2), (signal.SIGINT, 4)]
)
def test_answers_in_flight_are_waited_for_and_kept(number, concurrency, tmp_path):
    process = ask(tmp_path, concurrency)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == "Stopped. Give the same command again to resume.\n"
    paid, unknown, flying, stored = books(tmp_path)
    assert (unknown, flying) == (0, 0)
    assert 50 <= paid == stored == asked(tmp_path) < 400


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None or os.getuid() != 0, reason="takes a process namespace")
def test_an_ask_as_process_1_is_stopped(tmp_path):
    process = ask(tmp_path, 2, "unshare", "--pid", "--fork", "--mount-proc")
    (child,) = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(child), signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "Stopped. Give the same command again to resume.\n")
    paid, unknown, flying, stored = books(tmp_path)
    assert (paid, unknown, flying) == (stored, 0, 0)


@pytest.mark.slow
def test_a_second_signal_ends_an_ask_at_once_with_exact_books(tmp_path):
    process = ask(tmp_path, 5, seconds=600)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120) == ("", ""), "before its teacher has answered"
    assert process.returncode == 130
    from tuition import ResponseStore

    accounts = ResponseStore(str(tmp_path / "r.db")).accounts()  # which settles the dead ask
    assert (accounts.paid, accounts.unknown) == (50, 50)
    assert books(tmp_path) == (50, 50, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is imported is read from /proc")
@pytest.mark.parametrize("library", ["libtorch_cpu", "_pydantic_core", "_sqlite3"])
def test_a_signal_while_modules_are_imported_pays_nothing(library, tmp_path):
    (tmp_path / "user.py").write_text(USER.format(seconds=0.1))
    command = [sys.executable, "-m", "tuition", *ASK.format(1).split()]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while library not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("Stopped.")
    assert err.count("\n") == 1
    assert asked(tmp_path) < 400
    if (tmp_path / "r.db").exists():
        paid, unknown, flying, stored = books(tmp_path)
        assert (paid, unknown, flying) == (stored, 0, 0)
