"""What a paid ask cost, by every command that says it: the same sum, to the last digit."""

import contextlib
import io
import json
import os
import re
import sys
from decimal import Decimal

import pytest
import yaml

from tuition import ResponseStore
from tuition.cli import main as cli
from tuition.pipeline.settings import DistillSettings, TransferSettings

TEXTS = 100
PRICE = {"cost_per_call": "0.0004", "cost_per_million_tokens": "0.15,0.6"}
NOTHING_ELSE = "0 from cache, 0 failed, 0 in flight when interrupted"
OPTIONS = ["--cost-per-call", "0.0004", "--cost-per-million-tokens", "0.15,0.6"]


@pytest.fixture
def shop(server, reply, tmp_path, monkeypatch):
    """Texts, and a server of embeddings that counts 7 tokens in and 1 out for each of them."""

    def answer(request):
        texts = request.body["input"]
        items = [{"embedding": [float(len(text)), float(text.count("a")), 1.0]} for text in texts]
        used = {"prompt_tokens": 7 * len(texts), "completion_tokens": len(texts)}
        return reply({"data": items, "usage": used})

    server.reply = answer
    for split, start in ("train", 0), ("test", TEXTS):
        rows = "".join(f"text {'a' * (i % 9)} {i},{i % 2}\n" for i in range(start, start + TEXTS))
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.csv").write_text(f"text,label\n{rows}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUITION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return server


def tuition(*arguments):
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["tuition", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main()
    finally:
        sys.argv = before
    return code, out.getvalue() + err.getvalue()


def test_every_command_says_the_same_sum(shop):
    ask = ["ask", "--data", "data", "--teacher", "openai:m", "--calls", "10", *OPTIONS]
    code, said = tuition(*ask, "--dry-run")
    assert code == 0, said
    assert "unknown until answers of this teacher tell their tokens" in said
    assert said.count("Note: Two prices are set, and both are charged: 0.0004 for each call, and 0.15 and 0.6 for") == 1
    code, said = tuition(*ask)
    assert code == 0, said
    assert f"10 paid, {NOTHING_ELSE}, cost 0.0040165, tokens in 70, tokens out 10." in said

    code, said = tuition("ask", *ask[1:5], "--calls", "30", *OPTIONS, "--dry-run")
    assert re.search(r"cost of the new calls\s+about 0\.008033\s", said), said
    assert re.search(r"tokens of a call, so far\s+7\.0 in, 1\.0 out", said), said

    run = ["distill", "--data", "data", "--teacher", "openai:m", "--calls", "30", "--epochs", "1", "--out", "run"]
    code, said = tuition(*run, *OPTIONS, "--student", "bag_32", "--set", "device=cpu")
    assert code == 0, said
    assert re.search(r"cost\s+0\.008033\s", said), said
    assert re.search(r"tokens in\s+140\s+tokens out\s+20\s", said), said
    with open("run/run.json") as file:
        bill = json.load(file)["bill"]
    assert (Decimal(bill["cost"]), bill["input_tokens"], bill["output_tokens"]) == (Decimal("0.008033"), 140, 20)

    code, said = tuition("store", "usage", "responses.db")
    assert re.search(r"tokens in\s+210\s+tokens out\s+30\s+cost\s+0\.0120495\s", said), said
    code, said = tuition(
        *("store", "verify", "responses.db", "--reask", "4", "--teacher", "openai:m", "--data", "data"),
        *("--budget", "99", *OPTIONS),
    )
    assert f"4 paid, {NOTHING_ELSE}, cost 0.0016066, tokens in 28, tokens out 4." in said
    code, said = tuition("store", "usage", "responses.db")
    assert re.search(r"\s0\.0136561\s", said), said


@pytest.mark.parametrize("form", ["text", "pair", "yaml"])
def test_prices_as_settings(tmp_path, form):
    values = dict(PRICE)
    if form == "pair":
        values |= {"cost_per_call": 0.0004, "cost_per_million_tokens": [0.15, 0.6]}
    if form == "yaml":
        values = yaml.safe_load("cost_per_call: 0.0004\ncost_per_million_tokens: 0.15,0.60\n")
    for kind in (TransferSettings, DistillSettings):
        found = kind.of(values).ask
        assert found.cost_per_call == Decimal("0.0004")
        assert found.cost_per_million_tokens == (Decimal("0.15"), Decimal("0.6"))
        assert found.price == kind.of(PRICE).ask.price
    assert TransferSettings.of({}).ask.price is None


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--cost-per-call", "cheap", "a price is a number such as 0.002"),
        ("--cost-per-call", "-1", "a price is at least 0"),
        ("--cost-per-call", "nan", "a price is at least 0"),
        ("--cost-per-call", "0.1,0.2", "a price is a number such as 0.002"),
        ("--cost-per-million-tokens", "0.15", "is IN,OUT"),
        ("--cost-per-million-tokens", "0.15,", "a price is a number such as 0.002"),
        ("--cost-per-million-tokens", "1,2,3", "is IN,OUT"),
    ],
)
def test_prices_that_are_none_are_a_sentence(shop, option, value, said):
    code, printed = tuition("ask", "--data", "data", "--teacher", "openai:m", "--calls", "10", f"{option}={value}")
    assert code == 2
    assert said in " ".join(printed.split())
    assert "Traceback" not in printed
    assert shop.requests == []
    assert not os.path.exists("responses.db")


@pytest.mark.parametrize(
    ("surroundings", "said"),
    [
        ({"OPENAI_API_KEY": "sk-ü"}, "characters that no key has"),
        ({"OPENAI_API_KEY": "sk-a\r\nX-Evil: 1"}, "characters that no key has"),
        ({"OPENAI_API_KEY": "sk-a", "OPENAI_BASE_URL": "http://gpu-box:8000/v1"}, "unencrypted to gpu-box"),
        ({"OPENAI_API_KEY": "sk-a", "HTTP_PROXY": "http://127.0.0.1:1"}, "unencrypted through the proxy"),
        ({"HTTP_PROXY": "socks://127.0.0.1:1"}, "has the scheme socks"),
        ({"OPENAI_BASE_URL": "https://me:hunter2@models.example"}, "holds no user, password"),
    ],
)
def test_what_is_known_before_a_request_leaves_nothing_behind(shop, monkeypatch, surroundings, said):
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    for command in (["ask"], ["distill", "--student", "bag_32", "--out", "run"]):
        code, printed = tuition(*command, "--data", "data", "--teacher", "openai:m", "--calls", "10")
        assert code == 2
        assert said in printed
        assert "Traceback" not in printed
        assert "hunter2" not in printed
    assert shop.requests == []
    assert not os.path.exists("responses.db")
    assert not os.path.exists("run")


def test_a_part_that_was_answered_badly_is_billed(shop, reply):
    """A bad answer is paid, and so are the tokens that it used."""
    good = shop.reply
    shop.reply = lambda request: reply({"data": [], "usage": {"prompt_tokens": 70, "completion_tokens": 10}})
    ask = ["ask", "--data", "data", "--teacher", "openai:m", "--calls", "10", *OPTIONS]
    code, said = tuition(*ask)
    assert code == 2
    assert "that answer is paid" in said
    shop.reply = good
    code, said = tuition(*ask)
    assert f"10 paid, {NOTHING_ELSE}, cost 0.0040165, tokens in 70, tokens out 10." in said
    code, said = tuition("store", "usage", "responses.db")
    assert re.search(r"tokens in\s+140\s+tokens out\s+20\s+cost\s+0\.008033\s", said), said
    assert ResponseStore("responses.db").accounts().paid == 20
