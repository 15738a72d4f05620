"""The code of every page of the site and of the README runs as it stands, and prints what the page shows.

Blocks of `python` and `bash` run in order in an empty folder. A block with a title is a file of this name. A block of
`text` without a title, after a block that runs, is what that block prints; "..." stands for anything. Blocks of `sh`
are for another machine, or take long: their commands are parsed alone.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


def beside(name: str) -> ModuleType:
    """A module of this folder."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page, chat_server = beside("page"), beside("chat_server")

WRITTEN = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): page.blocks(path.read_text(encoding="utf-8")) for path in WRITTEN}
RUN = [name for name, blocks in PAGES.items() if any(b.language in ("python", "bash") for b in blocks)]
SH = [(name, block) for name, blocks in PAGES.items() for block in blocks if block.language == "sh"]
# What would make a page ask a real server, or look for data elsewhere.
LEFT_OUT = ("OPENAI_API_KEY", "RAY_ADDRESS")


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """A folder with the commands `tuition` and `python`, which need no time to import."""
    folder = tmp_path_factory.mktemp("forks")
    command = [sys.executable, str(HERE / "forks.py"), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield folder / "bin"
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="session")
def chat():
    with chat_server.serving() as address:
        yield address


@pytest.mark.parametrize("name", RUN)
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(name, forks, chat, tmp_path):
    outputs, here = tmp_path / "printed", tmp_path / "here"
    outputs.mkdir()
    here.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in LEFT_OUT}
    environment |= {"PATH": f"{forks}:{environment['PATH']}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [forks / "python", HERE / "page.py", ROOT / name, outputs],
        cwd=here,
        env=environment | {"COLUMNS": "100", "HOME": str(tmp_path), "OPENAI_BASE_URL": chat},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
    before = None
    for block in PAGES[name]:
        if block.language == "text" and not block.title and before is not None:
            printed = (outputs / str(before.line)).read_text(encoding="utf-8")
            assert shown_as(block.code, printed), f"line {block.line} of {name} shows other words than:\n{printed}"
        before = block if block.language in ("python", "bash") and not block.title else None


def shown_as(shown: str, printed: str) -> bool:
    """Whether a page may show this of what is printed: "..." is anything, and spaces are alike."""
    parts = [re.escape(" ".join(part.split())) for part in shown.split("...")]
    return re.fullmatch(r"\s*" + r".*?".join(parts) + r"\s*", " ".join(printed.split()), re.DOTALL) is not None


def test_what_a_page_may_show():
    assert shown_as("320 paid,\n  0 failed", "320 paid, 0 failed\n")
    assert shown_as("accuracy ... %\n...\nlast", "accuracy 97.2 %\nanother line\nlast\n")
    assert not shown_as("320 paid", "320 paid, 0 failed\n")
    assert not shown_as("320 paid, ...", "32 paid, 0 failed")


def test_every_block_is_of_a_known_kind():
    """A block that nobody runs would rot: ```sh, ```text, or a file with a title are meant not to run."""
    for name, blocks in PAGES.items():
        for block in blocks:
            known = block.language in ("python", "bash", "text", "sh") or block.title
            assert known, f"line {block.line} of {name}: ```{block.language} without a title is not run by any test"


@pytest.mark.parametrize(("name", "block"), SH, ids=lambda it: it if isinstance(it, str) else str(it.line))
def test_commands_that_are_not_run_are_understood(name, block):
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            understood(words)


def understood(words: list[str]) -> None:
    """Check a command as far as that is possible without running it."""
    program, *rest = words
    if program == "torchrun":
        program, *rest = rest[rest.index("-m") + 1 :]
    if program == "tuition":
        parsed(rest)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for names in re.findall(r"\[(.*?)\]", " ".join(rest)):
            assert set(names.split(",")) <= set(extras), names
    elif program == "make":
        assert rest[0] in re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split()
    elif program == "python":
        assert rest[0] == "-m" or (ROOT / rest[0]).exists(), rest[0]
    else:
        assert program in ("docker", "export", "ray"), f"{program}: not run by any test"


def parsed(words: list[str]) -> None:
    import typer

    from tuition.cli.main import app

    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, name
        command = command.commands[name]
    command.make_context(command.name, list(words))
