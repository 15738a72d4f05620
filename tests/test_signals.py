"""SIGINT, SIGTERM and SIGHUP, sent to real processes: how they end, what they say, and what they keep."""

import os
import shutil
import signal
import subprocess
import sys
import time

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
        time.sleep(20)
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
        time.sleep(20)
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
    out, err = process.communicate(timeout=15)
    assert "Traceback" not in err
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_the_first_signal_lets_work_be_kept(number, tmp_path):
    process = start(KEEP.format(keeps=0), tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert ended(process) == (128 + number, "keeping\n", "")


def test_a_second_signal_ends_at_once(tmp_path):
    process = start(KEEP.format(keeps=20), tmp_path)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "keeping\n"
    while process.poll() is None:  # it would end by itself after twenty seconds, with another code
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
    (tmp_path / "slow.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(20)\n")
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
