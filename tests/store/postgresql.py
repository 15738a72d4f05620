"""A PostgreSQL server of one's own, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def programs() -> Path | None:
    """The newest folder with PostgreSQL's server programs: on the path, or where Debian keeps them."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return Path(found).parent if found else folders[-1].parent if folders else None


@contextmanager
def server() -> Iterator[str]:
    """A fresh server on a socket in a temporary folder; yields a URL with "{}" for a database's name."""
    found = programs()
    assert found is not None
    folder = Path(tempfile.mkdtemp(prefix="tuition-postgresql-"))
    user = None
    if os.getuid() == 0:  # the server refuses to run as root
        user = "postgres"
        shutil.chown(folder, user, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(found / program), "-D", str(folder / "data"), *arguments]
        done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, env={"LC_ALL": "C"})
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")

    try:
        run("initdb", "--auth=trust", "--username=tuition", "--encoding=UTF8")
        # Only clients are killed here, so the disk need not be waited for. Its output goes to a file: a pipe would stay
        # open as long as the server runs.
        settings = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run("pg_ctl", "-w", "-t", "600", "-l", str(folder / "log"), "-o", settings, "start")
        try:
            yield f"postgresql://tuition@/{{}}?host={folder}"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def create_database(url: str, name: str) -> str:
    """A new, empty database on a server; returns its URL."""
    import psycopg

    with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return url.format(name)


def empty_database(url: str) -> str:
    """The server's first database, emptied; returns its URL. Much faster than a new one."""
    import psycopg

    with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return url.format("postgres")
