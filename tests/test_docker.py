"""The image of the command line: linted everywhere, built and run where a Docker daemon answers."""

import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HADOLINT = Path(sys.executable).with_name("hadolint")


def daemon_answers() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True).returncode == 0


def test_the_dockerfile_passes_a_linter():
    linted = subprocess.run(
        [HADOLINT, "--failure-threshold", "warning", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_linter_finds_what_is_wrong(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nUSER root\nRUN cd /tmp && pip install torch\n")
    linted = subprocess.run([HADOLINT, bad], capture_output=True, text=True)
    assert linted.returncode == 1
    assert {"DL3002", "DL3006", "DL3042"} <= set(linted.stdout.split())


def test_what_is_copied_exists_and_is_sent_to_the_daemon():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in allowed), source


def test_the_image_runs_the_command_without_rights():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert lines[-2:] == ['ENTRYPOINT ["tuition"]', 'CMD ["--help"]']  # the exec form, which passes signals on
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]


@pytest.mark.long
def test_the_image_is_built_and_runs(tmp_path):
    if not daemon_answers():
        pytest.skip("no Docker daemon answers here")
    subprocess.run(["docker", "build", "-t", "tuition-test", ROOT], check=True)
    run = ["docker", "run", "--rm"]
    shown = subprocess.run([*run, "tuition-test", "--version"], check=True, capture_output=True, text=True)
    assert shown.stdout.startswith("tuition ")
    user = subprocess.run(
        [*run, "--entrypoint", "id", "tuition-test", "-u"], check=True, capture_output=True, text=True
    )
    assert user.stdout.strip() == "1000"
    tmp_path.chmod(0o777)
    mounted = [*run, "-v", f"{tmp_path}:/work", "tuition-test"]
    subprocess.run(
        [*mounted, "teach", "--data", "digits", "--model", "cnn_4", "--epochs", "1", "--out", "t"], check=True
    )
    assert (tmp_path / "t" / "run.json").exists()
