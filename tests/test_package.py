"""What importing costs, what is public, and that imports run one way."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import tuition

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tuition"

# Each room imports only what stands in its row.
# Leaves, which import only each other.
ANYWHERE = {
    "crash",
    "disk",
    "errors",
    "escape",
    "factories",
    "held",
    "huggingface",
    "identity",
    "learning_curve",
    "progress",
    "source_digest",
    "stopping",
    "syntax",
}
LEAVES = {"data", "losses", "models", "teachers"}
ROOMS = {
    "errors": set(),
    "crash": {"errors", "escape"},
    "disk": {"errors"},
    "escape": {"errors"},
    "factories": {"errors"},
    "held": {"stopping"},
    "huggingface": {"errors"},
    "progress": {"escape"},
    "identity": {"syntax"},
    "learning_curve": set(),
    "source_digest": {"identity", "syntax"},
    "syntax": set(),
    "stopping": {"errors"},
    "data": ANYWHERE,
    "losses": ANYWHERE,
    "models": ANYWHERE,
    "teachers": ANYWHERE,
    "store": ANYWHERE | {"data", "teachers"},
    "training": ANYWHERE | {"data", "losses", "models"},
    "pipeline": ANYWHERE | LEAVES | {"store", "training"},
    "studies": ANYWHERE | LEAVES | {"store", "training", "pipeline"},
    "cli": ANYWHERE | LEAVES | {"store", "training", "pipeline", "studies"},
}
PUBLIC = "from tuition import losses, data, models, teachers, ResponseStore, distill, load"


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_cost_little_beyond_torch():
    """By what they import. benchmarks/startup.py measures the time."""
    modules = python(f"import torch; {PUBLIC}\nimport sys; print(*sys.modules)").split()
    heavy = {"datasets", "httpx", "matplotlib", "pandas", "PIL", "pyarrow", "rich", "sklearn", "sqlalchemy", "typer"}
    assert not heavy & set(modules)
    assert "torch._dynamo" not in modules


def test_help_imports_little():
    program = (
        "import sys; sys.argv = ['tuition', {}]\n"
        "from tuition.cli.main import main\nassert main() == 0\nprint(*sys.modules)"
    )
    for arguments in ("'--help'", "'--version'", "'distill', '--help'"):
        modules = python(program.format(arguments)).splitlines()[-1].split()
        assert not {"torch", "numpy", "sqlalchemy", "matplotlib"} & set(modules)


def test_everything_public_is_there():
    for name in tuition.__all__:
        assert getattr(tuition, name) is not None
    assert set(dir(tuition)) == {*tuition.__all__, "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'distil'"):
        tuition.distil  # noqa: B018
    assert tuition.__version__ == importlib.metadata.version("tuition")
    assert (SOURCE / "py.typed").exists()


def imported(tree: ast.AST, module: str) -> set[str]:
    """Rooms of ours that a module names in its imports, wherever they stand, but for those that are for types only."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for part in ast.walk(node):
                part.skipped = True  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if getattr(node, "skipped", False):
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            assert "tuition" not in names, f"{module} imports the package that imports it"
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("tuition.")}
    return found & set(ROOMS)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_one_way(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    others = imported(ast.parse(path.read_text()), str(path)) - {room}
    assert others <= ROOMS[room], f"{path} imports {others - ROOMS[room]}"


def test_nothing_touches_global_random_state_or_needs_a_gpu():
    """Seeded generators only, and no device by name."""
    forbidden = (
        "torch.manual_seed",
        "torch.cuda.manual_seed",
        "random.seed(",
        "np.random.seed",
        "np.random.rand",
        ".cuda()",
    )
    for path in SOURCE.rglob("*.py"):
        code = "\n".join(line.split("#")[0] for line in path.read_text().splitlines())
        assert not [word for word in forbidden if word in code], path
