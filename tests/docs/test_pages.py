"""The code of every page of the site and of the README runs as it stands, and prints what the page shows.

Blocks of `python` and `bash` run in order in an empty folder. A block with a title is a file of this name. A block of
`text` without a title, after a block that runs, is what that block prints; "..." stands for anything.

Blocks of `sh` need what a test cannot count on: a package index, a key, an account on the hub, Docker, hours.
Their commands are parsed alone, except those of the page on several machines: a long test runs them against a real
PostgreSQL server, with torchrun and on a real Ray cluster, all on this machine, but for `pip install` and `ray start`.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tuition import ResponseStore
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import TransferSettings
from tuition.pipeline.sources import Sources

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


def beside(name: str, folder: Path = HERE) -> ModuleType:
    """A module of this folder, or of another one."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page, chat_server = beside("page"), beside("chat_server")
postgresql = beside("postgresql", ROOT / "tests" / "store")

WRITTEN = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): page.blocks(path.read_text(encoding="utf-8")) for path in WRITTEN}
RUN = [name for name, blocks in PAGES.items() if any(b.language in ("python", "bash") for b in blocks)]
MACHINES = "docs/guides/several-machines.md"
ASKED_TOGETHER = [{"calls": 200}, {"calls": 300}, {"calls": 80, "seed": 0}, {"calls": 80, "seed": 1}]  # in PostgreSQL
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


def run_page(written: Path, folder: Path, programs: Path, **variables: str) -> Path:
    """Run a page in an empty folder; returns the folder of what its blocks printed."""
    outputs, here = folder / "printed", folder / "here"
    outputs.mkdir()
    here.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in LEFT_OUT}
    environment |= {"PATH": f"{programs}:{environment['PATH']}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [programs / "python", HERE / "page.py", written, outputs],
        cwd=here,
        env=environment | {"COLUMNS": "100", "HOME": str(folder)} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
    return outputs


@pytest.mark.parametrize("name", RUN)
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(name, forks, chat, tmp_path):
    outputs = run_page(ROOT / name, tmp_path, forks, OPENAI_BASE_URL=chat)
    before = None
    for block in PAGES[name]:
        if block.language == "text" and not block.title and before is not None:
            printed = (outputs / str(before.line)).read_text(encoding="utf-8")
            assert shown_as(block.code, printed), f"line {block.line} of {name} shows other words than:\n{printed}"
        before = block if block.language in ("python", "bash") and not block.title else None


@pytest.fixture
def cluster():
    """The address of a Ray cluster of two nodes of one core each."""
    pytest.importorskip("ray", reason="Ray is not installed (tuition[ray])")
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 100 << 20}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-") as folder:
        patch.setenv("RAY_TMPDIR", folder)  # with sockets, whose paths are short
        nodes = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        try:
            nodes.add_node(**size)
            yield nodes.address
        finally:
            nodes.shutdown()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_several_machines_do_runs_on_one(cluster, tmp_path):
    if postgresql.programs() is None:
        pytest.skip("PostgreSQL's server programs are not installed (Debian: apt-get install postgresql)")
    blocks = [block for block in PAGES[MACHINES] if not block.code.startswith("pip ")]
    assert sum(block.language == "sh" for block in blocks) == 4
    written = tmp_path / "page.md"
    heads = [f'{block.language} title="{block.title}"' if block.title else "bash" for block in blocks]
    written.write_text(
        "".join(f"```{head}\n{block.code}```\n" for head, block in zip(heads, blocks, strict=True)), encoding="utf-8"
    )
    with postgresql.server() as server:
        url = postgresql.empty_database(server)
        run_page(written, tmp_path, Path(sys.executable).parent, STORE=url, RAY_ADDRESS=cluster)
        accounts = ResponseStore(url).accounts("digits")
    here = tmp_path / "here"
    drawn = [question_of(TransferSettings.of(it), Sources()) for it in ASKED_TOGETHER]
    digests = {digest for question in drawn for digest in question.inputs.digests}
    assert (accounts.paid, accounts.unknown) == (len(digests), 0)
    assert json.loads((here / "runs/digits/run.json").read_text())["settings"]["epochs"] == 20
    assert len((here / "study/runs.csv").read_text().splitlines()) == 1 + 2 * 2 * 2


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
