"""Stores to test with: SQLite files, and databases of a PostgreSQL server where its programs are installed."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tuition.data import Pool, from_tensors


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


postgresql = _beside("postgresql")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    if postgresql.programs() is None:
        pytest.skip("PostgreSQL's server programs are not installed (Debian: apt-get install postgresql)")
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store that does not exist yet, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/responses.db"
    return postgresql.empty_database(request.getfixturevalue("server"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a SQLite store may be."""
    return tmp_path / "responses.db"


@pytest.fixture
def pool() -> Pool:
    """100 different inputs, numbered 0 to 99."""
    return from_tensors(torch.arange(100.0).unsqueeze(1))
