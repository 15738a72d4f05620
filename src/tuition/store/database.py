"""The database under a store: tables, transactions, versions, who is alive, and errors as sentences."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tuition import disk
from tuition.errors import UserError, first_line
from tuition.held import Held
from tuition.store import address, files

VERSION = 6
BUSY_SECONDS = 60.0  # how long a writer waits for another one

_meta = sa.MetaData()


class Money(sa.TypeDecorator[Decimal]):
    """A Decimal as text, which keeps every digit in both databases. SQL never computes with it."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else f"{value:f}"

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


def _table(name: str, *columns: sa.Column[Any], **options: Any) -> sa.Table:
    return sa.Table(f"tuition_{name}", _meta, *columns, **options)


def _column(name: str, kind: Any = sa.Integer, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, **options)


def _count(name: str, kind: Any = sa.BigInteger) -> sa.Column[Any]:
    return _column(name, kind, server_default="0")


def _bill() -> list[sa.Column[Any]]:
    return [_count("cost", Money), *map(_count, METERED)]


METERED = ("input_tokens", "output_tokens", "metered")
version_table = _table("version", _column("version"))
# A teacher is a fingerprint, with its accounts. Names are bound to one teacher each.
teachers = _table(
    "teachers",
    _column("id", primary_key=True),
    _column("fingerprint", sa.Text, unique=True),
    *map(_count, ("paid", "served", "failed", "unknown", "imported")),
    *_bill(),
)
names = _table("names", _column("name", sa.Text, primary_key=True), _column("teacher_id"))
# Which outputs blobs of a teacher hold: see payload.layout.
layouts = _table("layouts", _column("id", primary_key=True), _column("teacher_id"), _column("outputs", sa.Text))
blobs = _table(
    "blobs",
    _column("id", primary_key=True),
    _column("layout_id"),
    _column("checksum", sa.LargeBinary),
    _column("payload", sa.LargeBinary),
)
responses = _table(
    "responses",
    _column("teacher_id", primary_key=True),
    _column("digest", sa.LargeBinary, primary_key=True),
    _column("blob_id"),
    _column("blob_row"),
    sqlite_with_rowid=False,  # half the size
)
# An ask under way, and the digests it means to send, joined; gone when the ask ends. A part of a shared ask names that
# ask's owner in `part_of` (else 0): it shares the plan, and adds to the counts.
asks = _table(
    "asks",
    _column("owner", sa.BigInteger, primary_key=True, autoincrement=False),
    _column("teacher_id"),
    _column("plan", sa.LargeBinary),
    *map(_count, ("part_of", "calls_per_input", "paid", "failed", "unknown")),
    *_bill(),
)
# A request reserved and not yet settled: it counts against the budget, and nobody else sends its inputs.
flights = _table(
    "flights",
    _column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    _column("owner", sa.BigInteger),
    _column("teacher_id"),
    _column("calls"),
    _column("digests", sa.LargeBinary),
    _count("price", Money),  # of one call
)
# A request that was counted as paid and unknown. If its answer turns up after all, it is counted as what it is.
lost = _table(
    "lost",
    _column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    _column("teacher_id"),
    _column("calls"),
    _count("price", Money),
    _count("part_of"),
)


class Database:
    """A store's database, at the current version.

    Raises:
        UserError: it cannot be opened, is not a store, or was written by another version.
    """

    def __init__(self, url: str) -> None:
        parsed = address.parse(url)
        self.shown = address.shown(url)
        on_disk = parsed.get_backend_name() == "sqlite"
        self.path = Path(os.path.realpath(disk.replaceable(parsed.database or ""))) if on_disk else None
        self.identity: tuple[int, int] | None = None  # of the file, once it is open
        # Connections are not kept: a store that nobody uses is one complete file, and a fork inherits nothing.
        if self.path is not None:
            # Not by a URL, in which some characters of a file's name would have a meaning.
            self.engine = sa.create_engine("sqlite://", poolclass=sa.NullPool, creator=self._open_file)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            try:
                self.engine = sa.create_engine(parsed, poolclass=sa.NullPool, connect_args={"options": _POSTGRESQL})
            except ModuleNotFoundError as error:
                raise UserError("a store in PostgreSQL needs its driver; install tuition[postgresql].") from error
        self.read_only = self.path is not None and self.path.exists() and not files.writable(self.path)
        self._create()
        if self.path is not None:
            self.identity = files.identity(self.path)
            self.folder = os.open(self.path.parent, os.O_RDONLY)  # the same one, if it is renamed
            weakref.finalize(self, os.close, self.folder)

    @property
    def is_sqlite(self) -> bool:
        return self.path is not None

    def check_place(self) -> None:
        """Refuse to go on where the store is no longer the file that was opened.

        Raises:
            UserError: it was deleted, renamed or replaced: what is written now would be in no store.
        """
        if self.identity is None or self.path is None or files.identity(self.path) == self.identity:
            return
        what = "replaced by another file" if self.path.exists() else "deleted or renamed"
        raise UserError(
            f"the store {self.shown} was {what} while it was in use; put it back, or run again to begin a new one."
        )

    def _check_writable(self) -> None:
        if self.read_only:
            raise UserError(f"the store {self.shown} can only be read; make the file and its folder writable.")

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        self.check_place()
        with self._sentences():
            with Held():
                connection = self.engine.connect()
            try:
                yield connection
            finally:
                with Held():  # SQLAlchemy would log a traceback of an interrupt inside of close
                    connection.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection inside one consistent, reading transaction."""
        with self.connect() as connection:
            level = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
            with connection.execution_options(reading=True, **level).begin():
                yield connection

    @contextmanager
    def write(self, connection: Connection) -> Iterator[None]:
        """A transaction that alone may write: all of it is durable at the end, or nothing.

        A signal waits for its end: an interrupt inside of SQLAlchemy's begin or commit would leave the store locked.
        """
        self._check_writable()
        self.check_place()
        with Held(), self._sentences(), connection.begin():
            connection.execute(sa.select(version_table.c.version).with_for_update()).all()
            yield

    def checkpoint(self, connection: Connection) -> None:
        """Move what was written from SQLite's log to the file itself, as far as other users of it allow.

        A file that was renamed takes it along. One that was replaced does not: the log may be the new file's by now.
        """
        if self.path is None or (self.path.exists() and files.identity(self.path) != self.identity):
            return
        how = "PASSIVE" if self.path.exists() else "TRUNCATE"
        with self._sentences():
            connection.connection.cursor().execute(f"PRAGMA wal_checkpoint({how})").fetchall()

    def compact(self) -> None:
        """Give the space of what was deleted back to the disk. PostgreSQL does so by itself."""
        if self.path is not None:
            with self._sentences(), closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as connection:
                connection.execute("VACUUM")

    # -- who is alive -------------------------------------------------------------------------------------------------

    @contextmanager
    def owner(self, connection: Connection) -> Iterator[int]:
        """A number that others see as alive for as long as this process and connection live.

        It has a lock, which the operating system or the server releases when the process dies, however it dies.
        """
        self._check_writable()
        number = secrets.randbits(62)
        if not self.is_sqlite:
            with connection.begin():
                connection.execute(sa.select(sa.func.pg_advisory_lock(number)))
            yield number  # released with the connection
            return
        path = self._lock_path(number)
        assert self.path is not None
        try:
            with closing(_lock(path)):
                files.resemble(path, self.path)
                yield number
        finally:
            path.unlink(missing_ok=True)

    def dead(self, connection: Connection, numbers: Sequence[int]) -> list[int]:
        """Those of these askers that are gone; this asker's own number is not among them."""
        if self.is_sqlite:
            return [number for number in numbers if self._is_free(number)]
        # One statement for all of them, because every request of every asker runs it.
        askers = sa.select(sa.func.unnest(sa.cast(numbers, sa.ARRAY(sa.BigInteger))).label("number")).subquery()
        free = sa.select(askers.c.number).where(sa.func.pg_try_advisory_lock(askers.c.number))
        gone = list(connection.scalars(free))
        for number in gone:
            connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))
        return gone

    def _is_free(self, number: int) -> bool:
        path = self._lock_path(number)
        if not path.exists():
            return True
        try:
            _lock(path).close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                return False
            raise
        with contextlib.suppress(PermissionError):  # another user's, in a folder where each deletes only his own
            path.unlink(missing_ok=True)
        return True

    def _lock_path(self, number: int) -> Path:
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}-ask-{number:016x}")

    def _open_file(self) -> sqlite3.Connection:
        assert self.path is not None
        log, index = (self.path.with_name(self.path.name + suffix) for suffix in ("-wal", "-shm"))
        if self.read_only:  # without a log, SQLite needs to be told that it can do without the files of one
            where = f"{self.path.absolute().as_uri()}?{'mode=ro' if log.exists() else 'immutable=1'}"
            connection = sqlite3.connect(where, timeout=BUSY_SECONDS, check_same_thread=False, uri=True)
        else:
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            _configure_sqlite(connection)
            for path in () if self.read_only else (log, index):  # SQLite gives them this user's group
                with contextlib.suppress(FileNotFoundError):
                    files.resemble(path, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    # -- versions -----------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        """Make the tables of a new store; an existing one has this version."""
        if self.path is not None and not self.read_only:
            files.create(self.path)
            files.check_one_name(self.path)
        with self.connect() as connection, connection.execution_options(reading=True).begin():
            tables = set(sa.inspect(connection).get_table_names())
            if version_table.name in tables:
                version = connection.scalar(sa.select(version_table.c.version))
                if version == VERSION:
                    return
                raise UserError(
                    f"the store {self.shown} has version {version}, and this tuition reads version {VERSION}; use the "
                    "tuition that wrote it."
                )
            if tables and self.is_sqlite:
                raise UserError(f"{self.shown} is a database of something else, not a store; choose another path.")
        if self.path is not None:
            self._write_ahead()
        with self.connect() as connection, connection.begin():
            if not self.is_sqlite:  # SQLite's transaction is alone already
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x7475_6974)))
            _meta.create_all(connection)
            if connection.scalar(sa.select(version_table.c.version)) is None:
                connection.execute(version_table.insert().values(version=VERSION))

    def _write_ahead(self) -> None:
        """Let readers and a writer work at the same time; the file remembers."""
        deadline = time.monotonic() + BUSY_SECONDS
        with self._sentences(), closing(sqlite3.connect(self.path or "")) as connection:
            while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                try:
                    connection.execute("PRAGMA journal_mode = wal")
                except sqlite3.OperationalError as error:  # SQLite does not wait here by itself
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)

    # -- errors -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DBAPIError, sqlite3.Error, UnicodeDecodeError) as error:
            if isinstance(error, sa.exc.IntegrityError):  # ours, not the user's
                raise
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else None
            what = first_line(cause or error)
            if isinstance(error, UnicodeDecodeError):  # in a message of SQLite that quotes what it read
                what = "malformed text"
            advice = next((advice for word, advice in _ADVICE if word in what), "check its path or URL and its server")
            raise UserError(f"the store {self.shown} cannot be used ({what}); {advice}.") from error


_ADVICE = [
    ("malformed", "the file is damaged: restore a copy of it, or export what `tuition store verify` finds intact"),
    ("not a database", "the file is not a store, or damaged: restore a copy of it, or choose another path"),
    ("is full", "free some space and run again, nothing that was stored is lost"),
    (
        "disk I/O",
        "check the disk and its free space, and that the file is not mounted alone, without its folder; run again, "
        "nothing that was stored is lost",
    ),
    ("readonly", "make the file and its folder writable"),
    ("unable to open", "check that its folder exists and is writable"),
    ("locked", f"another process has held it for {BUSY_SECONDS:.0f} seconds: wait for it, or stop it"),
]

# A client whose machine vanished is given up after a minute, so that its reservations can be settled.
_POSTGRESQL = (
    "-c synchronous_commit=on -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
)


def _lock(path: Path) -> sqlite3.Connection:
    """A connection that has a file for itself until it is closed, or an error at once."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = memory")
        connection.execute("BEGIN EXCLUSIVE")
    except BaseException:
        connection.close()
        raise
    return connection


def _configure_sqlite(connection: sqlite3.Connection) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite
    connection.execute("PRAGMA synchronous = full")  # a commit is on the disk before it returns
    connection.execute("PRAGMA cache_size = -65536")
    # A copy of the file alone, without its log, lacks at most this number of pages. With 8,192 instead, asking by the
    # thousand would write a quarter less and take about 15 µs less an answer, which is little beside a teacher's time.
    connection.execute("PRAGMA wal_autocheckpoint = 1000")
    connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # opens the log


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
