"""Addresses of stores, against what psycopg and the file system make of them; passwords are shown nowhere."""

import os

import pytest

from tuition import ResponseStore, data, teachers
from tuition.errors import UserError, without_passwords
from tuition.store import address

SECRET = "s3cr:e/t#?&="  # with an @, it must be encoded


@pytest.mark.parametrize("name", ["what?.db", "50%.db", "a%20b.db", "#1.db", "my answers.db", "a&b=c.db", "ü@:x.db"])
@pytest.mark.parametrize("scheme", ["", "sqlite:///"])
def test_a_file_s_name_is_taken_as_it_is(name, scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not address.exists(scheme + name)
    pool = data.from_tensors(data.load("digits").inputs[:3])
    teacher = teachers.from_callable(lambda x: {"logits": x.float().flatten(1)[:, :10]}, fingerprint="1", name="t")
    ResponseStore(scheme + name).ask(teacher, pool, budget=3)
    assert [found for found in os.listdir() if not found.endswith(("-wal", "-shm"))] == [name]
    assert address.exists(scheme + name)
    assert address.shown(scheme + name) == name
    assert ResponseStore(scheme + name).accounts().paid == 3


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u@h/db", {"user": "u", "host": "h", "dbname": "db"}),
        ("postgres://u@h:5433/db?sslmode=require", {"host": "h", "port": "5433", "sslmode": "require"}),
        ("postgresql://u:p%40%3A%2Fw@h/db", {"password": "p@:/w", "host": "h"}),
        (f"postgresql://u:{SECRET}@h/db", {"password": SECRET, "host": "h", "dbname": "db"}),
        ("postgresql://u:geheim@one:1,two:2/db", {"host": "one,two", "port": "1,2", "password": "geheim"}),
        ("postgresql://u@[::1]:54/db", {"host": "::1", "port": "54"}),
        ("postgresql://u@/db?host=/var/run", {"host": "/var/run", "dbname": "db"}),
        ("postgresql://h:5432/db?application_name=a@b", {"host": "h", "port": "5432", "application_name": "a@b"}),
        ("postgresql://u%20v@h/d%20b", {"user": "u v", "dbname": "d b"}),
    ],
)
def test_a_server_is_what_psycopg_is_told(url, expected):
    import sqlalchemy as sa

    engine = sa.create_engine(address.parse(url))
    _, options = engine.dialect.create_connect_args(engine.url)
    told = {name: str(value) for name, value in options.items()}
    assert {name: told.get(name) for name in expected} == expected
    if "password" in expected:
        assert expected["password"] not in address.shown(url) + repr(engine) + without_passwords(f"answers in {url}.")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u@h/db?password=geheim", "~/.pgpass"),
        ("postgresql://u@h/db?sslmode=require&PASSWORD=geheim", "PGPASSFILE"),
        ("postgresql://u@h/db?sslpassword=geheim", "~/.pgpass"),
        ("postgresql://u:ge@heim@h/db", "%40"),
        ("postgresql://u:geheim@h:port/db", "port"),
        ("postgresql://u:geheim@h:99999/db", "port"),
        ("host=h password=geheim dbname=db", "not a URL"),
        ("mysql://u:geheim@h/db", "not mysql"),
        ("://u:geheim@h", "not a URL"),
        ("", "empty"),
        ("a\0b.db", "zero byte"),
        ("sqlite://", "plain path"),
        ("sqlite:///:memory:", "plain path"),
        (":memory:", "plain path"),
    ],
)
def test_other_addresses_are_refused_and_not_repeated(url, says):
    with pytest.raises(UserError, match=says) as caught:
        ResponseStore(url)
    assert "geheim" not in str(caught.value)
    assert "heim@" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:geheim@h/db",
        "store=postgresql+psycopg://u:geheim@h/db?x=1",
        "postgresql://u:ge heim@h/db",
        "postgresql://u:x@geheim@h/db",
        "postgresql://u:x/geheim?#@h/db",
        "postgresql://u@h/db?password=geheim&x=1",
        "tuition study x --set 'store=postgresql://:geheim@h/db' --out o",
        "http://user:geheim@proxy:8080/",
        "host=h Password=geheim dbname=db",
    ],
)
def test_passwords_are_masked_in_any_text(text):
    masked = without_passwords(text)
    assert "geheim" not in masked
    assert "heim" not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1:8000/v1 is down", "mail a@b.c", "see https://x.org/a?b=c", "12:30 @ noon", "a ratio of 3:4@5"],
)
def test_other_texts_stay_as_they_are(text):
    assert without_passwords(text) == text


def test_an_unreachable_server_is_named_without_its_password():
    pytest.importorskip("psycopg")
    with pytest.raises(UserError) as caught:
        ResponseStore(f"postgresql://u:{SECRET}@localhost:1/db")
    error = caught.value
    while error is not None:  # the causes are printed with it in a notebook
        assert SECRET not in str(error)
        assert "s3cr" not in str(error)
        error = error.__cause__
