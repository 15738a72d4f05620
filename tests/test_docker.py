"""The image of the command line: linted and its steps run everywhere, built and run where a Docker daemon answers."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
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
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert copied()
    for source in copied():
        assert source.exists(), source
        assert any(fnmatch(source.relative_to(ROOT).as_posix(), pattern) for pattern in allowed), source


def test_the_image_runs_the_command_without_rights():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert lines[-2:] == ['ENTRYPOINT ["tuition"]', 'CMD ["--help"]']  # the exec form, which passes signals on
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]


@pytest.mark.long
def test_the_steps_of_the_image_work_without_docker():
    """What is copied is all that the package needs, and a user without rights can run it."""
    with tempfile.TemporaryDirectory() as folder:
        source, work = Path(folder, "source"), Path(folder, "work")
        source.mkdir()
        work.mkdir()
        for path in copied():
            if path.is_dir():
                shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, source)
        user = other_user()
        if user is not None:
            Path(folder).chmod(0o755)
            os.chown(work, user, user)
        subprocess.run([sys.executable, "-m", "venv", Path(folder, "venv")], check=True)
        program = Path(folder, "venv", "bin")
        (site,) = Path(folder, "venv", "lib").glob("python*/site-packages")
        subprocess.run([program / "pip", "install", "--quiet", "--no-deps", source], check=True)
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # those of here, which spares a download
        shutil.rmtree(source)
        assert files(site / "tuition") == files(ROOT / "src" / "tuition")

        def run(*words: str) -> str:
            environment = {"PATH": str(program), "HOME": str(work), "OMP_NUM_THREADS": "1"}
            ran = subprocess.run(
                ["tuition", *words], cwd=work, env=environment, user=user, capture_output=True, text=True
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr
            return ran.stdout

        assert "distill" in run("--help")
        assert "--out" in run("demo", "--help")
        run("teach", "--data", "digits", "--model", "cnn_4", "--epochs", "1", "--out", "t")
        assert (work / "t" / "run.json").exists()
        assert user is None or (work / "t" / "run.json").stat().st_uid == user


def other_user() -> int | None:
    """A user without rights, for root; None where this user could not start this Python, or is us."""
    if os.getuid() != 0:
        return None
    try:
        return 1000 if subprocess.run([sys.executable, "-c", ""], user=1000, cwd="/").returncode == 0 else None
    except PermissionError:
        return None


def copied() -> list[Path]:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [ROOT / source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]


def files(package: Path) -> set[str]:
    """All files of a package, also those that are not Python."""
    found = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


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
