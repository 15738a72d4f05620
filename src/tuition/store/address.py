"""Where a store is: an SQLite file or a PostgreSQL database, parsed once; its password is shown to nobody."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from tuition import disk
from tuition.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_SERVER = re.compile(
    r"(?P<user>[^:@/?]*)(?::(?P<password>[^@]*))?@(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?", re.S
)
_NAMELESS = re.compile(r"(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?", re.S)
_EXAMPLE = "write postgresql://user@host/database"


def parse(address: str) -> URL:
    """The SQLAlchemy URL of a store.

    After sqlite:/// everything is the file's name, %, ? and # too. In postgresql://user:password@host:port/database
    user, password and database may be percent-encoded, and there may be several host:port with commas between.

    Raises:
        UserError: it is not the address of a store, or its query holds a password.
    """
    from sqlalchemy.engine import URL

    scheme, separator, rest = address.partition("://")
    if "\0" in address or not address.strip():
        raise UserError("the store's address is empty or holds a zero byte; name a file, as in responses.db.")
    if not separator and re.search(r"\bpassw\w*\s*=", address, re.IGNORECASE):
        raise UserError(
            f"the store's address holds a password and is not a URL; {_EXAMPLE}, with the password in ~/.pgpass."
        )
    if not separator:
        scheme, rest = "sqlite", f"/{address}"
    kind = scheme.partition("+")[0].lower()
    if kind == "sqlite":
        name = rest.removeprefix("/")
        if not rest.startswith("/") or not name or name == ":memory:" or name.startswith("file:"):
            raise UserError("paid answers are kept in a file; give its plain path, as in sqlite:///responses.db.")
        return URL.create("sqlite", database=name)
    if not kind:
        raise UserError(f"the store's address is not a URL; name a file, or {_EXAMPLE}.")
    if kind not in ("postgres", "postgresql"):
        raise UserError(f"stores are SQLite files or PostgreSQL databases, not {kind[:40]}; use one of these.")
    return _server(rest)


def exists(address: str) -> bool:
    """Whether a store is there already; of a server, this is not known before it is opened.

    Raises:
        UserError: it is not the address of a store, or a folder, a device or a pipe is there.
    """
    url = parse(address)
    return url.get_backend_name() != "sqlite" or disk.replaceable(url.database or "").is_file()


def shown(address: str) -> str:
    """The address without its password."""
    url = parse(address)
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def without_password(address: str) -> str:
    """The address of the same store, without its password."""
    from sqlalchemy.engine import URL

    url = parse(address)
    if url.password is None:
        return address
    plain = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, url.query)
    return plain.render_as_string(hide_password=False)


def _server(rest: str) -> URL:
    from sqlalchemy.engine import URL

    # host:5432/database?name=a@b has no user; a password may hold a slash, but not after digits alone.
    parts = None if re.match(r"[^:@/?]*:\d*[/?]", rest) else _SERVER.fullmatch(rest)
    parts = parts or _NAMELESS.fullmatch(rest)
    assert parts is not None
    known = parts.groupdict()
    if "@" in known["hosts"] + (known["database"] or ""):
        raise UserError("the store's address has more than one @; write %40 for each @ in its user or password.")
    query: dict[str, tuple[str, ...]] = {}
    for name, value in parse_qsl(known["query"] or "", keep_blank_values=True):
        if "pass" in name.lower() and name.lower() != "passfile":
            raise UserError(
                "a password in the query of a store's address is refused, since it would be shown; put it into "
                "~/.pgpass, or into a file that PGPASSFILE names."
            )
        query[name] = (*query.get(name, ()), value)
    hosts = [_host(place) for place in known["hosts"].split(",")]
    if len(hosts) > 1:
        query["host"] = tuple(f"{host}:{port or ''}".removesuffix(":") for host, port in hosts)
        hosts = [("", None)]
    (host, port), password = hosts[0], known.get("password")
    return URL.create(
        "postgresql+psycopg",
        username=unquote(known["user"]) if known.get("user") else None,
        password=None if password is None else unquote(password),
        host=host or None,
        port=port,
        database=unquote(known["database"]) if known["database"] else None,
        query={name: values[0] if len(values) == 1 else values for name, values in query.items()},
    )


def _host(place: str) -> tuple[str, int | None]:
    host, _, port = place.rpartition(":") if re.search(r"(^|[^:\]]|\]):[^:\]]*$", place) else (place, "", "")
    if port and not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise UserError(f"the store's address has a port that is not a number below 65536; {_EXAMPLE}.")
    return host.strip("[]"), int(port) if port else None
