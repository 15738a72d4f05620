"""Chat models that write their answers: read, voted on, counted; the same from the command line."""

import gc
import itertools
import json
import math
import os
import subprocess
import sys
import threading
import time
import warnings
from decimal import Decimal

import pytest
import torch

from tuition import ResponseStore, teachers
from tuition.data import Accounts, from_tensors
from tuition.errors import UserError
from tuition.store import BudgetError, TeacherError, usage, verify
from tuition.teachers import BadAnswer, from_openai

LABELS = ["sports", "arts", "war"]


def says(*contents, usage=None):
    """The reply with these texts as its choices."""
    choices = [{"index": i, "message": {"role": "assistant", "content": it}} for i, it in enumerate(contents)]
    return {"choices": choices} | ({"usage": usage} if usage else {})


def chat(server, **options):
    return from_openai("m", task="chat", base_url=server.url, labels=LABELS, **({"answers": "text"} | options))


@pytest.mark.parametrize("content", ["arts", " Arts.\n", '"ARTS"', "**arts**"])
def test_a_label_is_read(server, reply, content):
    server.reply = lambda request: reply(says(content))
    answer = chat(server)(["text"])
    assert answer["votes"].tolist() == [[0, 1, 0]]
    assert answer["unread"].item() == 0
    body = server.requests[0].body
    assert not {"n", "temperature"} & set(body)
    assert "- sports\n- arts\n- war\n\nText: text\n" in body["messages"][0]["content"]


@pytest.mark.parametrize("content", ["It is about arts", "art", "", None, "arts, war"])
def test_what_names_no_class_is_not_read(server, reply, content):
    server.reply = lambda request: reply(says(content))
    answer = chat(server)(["text"])
    assert answer["unread"].item() == 1
    assert answer["votes"].tolist() == [[0, 0, 0]]


def test_a_pattern_finds_the_label(server, reply):
    server.reply = lambda request: reply(says("I think: war is arts. Class: <b>War</b>"))
    assert chat(server, pattern=r"<b>(\w+)</b>")(["text"])["votes"].argmax() == 2
    assert chat(server, pattern="arts")(["text"])["votes"].argmax() == 1
    assert chat(server, pattern="none")(["text"])["unread"].item() == 1


@pytest.mark.parametrize(
    ("content", "unread"), [('{"label": "war"}', 0), ('{"label": "peace"}', 1), ("war", 1), ('["war"]', 1), ("null", 1)]
)
def test_structured_output(server, reply, content, unread):
    server.reply = lambda request: reply(says(content))
    answer = chat(server, answers="json")(["text"])
    assert answer["unread"].item() == unread
    assert unread or answer["votes"].argmax() == 2
    schema = server.requests[0].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == LABELS


def test_votes_make_a_soft_answer_and_each_is_a_call(server, reply, tmp_path):
    usage = {"prompt_tokens": 9, "completion_tokens": 5}
    server.reply = lambda request: reply(says("war", "arts", "war", "hm", "war", usage=usage))
    teacher = chat(server, votes=5, temperature=0.7)
    store, pool = ResponseStore(str(tmp_path / "r.db")), from_tensors(["a", "b"])
    planned = store.plan(teacher, pool, cost_per_call=2)
    assert (planned.new, planned.cost) == (10, 20)
    with pytest.raises(BudgetError, match="10 new calls do not fit in the budget of 9"):
        store.ask(teacher, pool, budget=9)
    assert server.requests == []
    answered = store.ask(teacher, pool, budget=10, batch_size=8, cost_per_call=2)
    assert answered.responses["votes"].tolist() == [[0, 0.25, 0.75]] * 2
    assert answered.accounts == Accounts(paid=10)
    assert (answered.bill.cost, answered.bill.input_tokens, answered.bill.output_tokens) == (20, 18, 10)
    assert [(request.body["n"], request.body["temperature"]) for request in server.requests] == [(5, 0.7)] * 2
    assert store.ask(teacher, pool, budget=10).accounts == Accounts(served=2)
    assert store.plan(teacher, pool).paid == 10


def test_a_server_that_does_not_take_n_is_named(server, reply):
    server.reply = lambda request: reply(says("war"))
    with pytest.raises(BadAnswer, match="1 of 3 votes; does it take n"):
        chat(server, votes=3)(["text"])


@pytest.mark.parametrize(
    "content", [{"choices": [{"message": "war"}]}, {"choices": {}}, {"choices": [{}]}, {"a": 1}, []]
)
def test_what_is_not_a_chat_completion_is_paid_and_not_stored(server, reply, content):
    server.reply = lambda request: reply(content)
    with pytest.raises(BadAnswer):
        chat(server)(["text"])


def test_nonsense_is_paid_stored_left_out_and_named(server, reply, tmp_path):
    """One answer in twenty names no class."""
    texts = [f"{label} {i}" for i in range(20) for label in LABELS]
    pool = from_tensors(texts, labels=torch.arange(60) % 3, class_names=LABELS)

    def answer(request):
        text = request.body["messages"][-1]["content"].split("Text: ")[1].split("\n")[0]
        return reply(says("As a language model ..." if text in {"war 7", "arts 9", "war 19"} else text.split()[0]))

    server.reply = answer
    store = ResponseStore(str(tmp_path / "r.db"))
    answered = store.ask(chat(server), pool, budget=60, concurrency=4)
    assert answered.accounts == Accounts(paid=60)
    assert len(answered) == 57
    assert set(answered.responses) == {"votes"}
    assert torch.equal(answered.responses["votes"].argmax(1), answered.labels)
    assert [(one.start, one.reason) for one in answered.refused] == [
        ("war 7", "its answer names no class"),
        ("arts 9", "its answer names no class"),
        ("war 19", "its answer names no class"),
    ]
    again = store.ask(chat(server), pool, budget=60)
    assert (len(server.requests), len(again), again.accounts.paid) == (60, 57, 0)


def test_prompts_and_labels_from_files(server, reply, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("sports\narts\n\nwar\n")
    (tmp_path / "prompt.txt").write_text("{text} is one of\n{labels}")
    (tmp_path / "system.md").write_text("You are brief.")
    server.reply = lambda request: reply(says("war"))
    options = {"base_url": server.url, "task": "chat", "answers": "text"}
    files = {"labels": "labels.txt", "prompt": "prompt.txt", "system": "system.md"}
    teacher = teachers.load("openai:m", **options, **files)
    teacher(["peace"])
    assert server.requests[0].body["messages"] == [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "peace is one of\n- sports\n- arts\n- war"},
    ]
    assert teacher.class_names == tuple(LABELS)
    (tmp_path / "prompt.txt").write_text("{text} belongs to\n{labels}")
    assert teachers.load("openai:m", **options, **files).fingerprint != teacher.fingerprint
    with pytest.raises(UserError, match=r"none\.txt cannot be read"):
        teachers.load("openai:m", **options, **files | {"system": "none.txt"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lables": ["a", "b"]}, "openai:... has no option lables; did you mean labels"),
        ({"timeout": "soon"}, "the teacher's option timeout does not fit"),
        ({"task": "images"}, "the teacher's option task does not fit"),
        ({"task": "chat", "labels": LABELS, "answers": "text", "pattern": "("}, "is not a regular expression"),
        ({"task": "chat", "labels": LABELS, "answers": "text", "votes": 0}, "votes is at least 1"),
        ({"task": "chat", "labels": LABELS, "votes": 3}, "of written answers; set answers=text"),
        ({"task": "chat", "labels": LABELS, "temperature": 0}, "of written answers; set answers=text"),
        ({"task": "completion", "labels": LABELS, "answers": "text"}, "set task=chat"),
        ({"task": "chat", "labels": ["a", "A"], "answers": "text"}, "differ only in case"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        teachers.load("openai:m", base_url="http://localhost:1", **options)


def test_options_of_a_factory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory_with_options.py").write_text(
        "from tuition import teachers\n"
        "def make(width=2):\n"
        "    return teachers.from_callable(lambda x: x[:, :width], fingerprint=f'width {width}', name='own')\n"
    )
    assert teachers.load("factory_with_options:make", width=3).fingerprint.startswith("width 3")
    with pytest.raises(UserError, match="has no option height; its options are width"):
        teachers.load("factory_with_options:make", height=3)


def test_confidence_of_a_hard_label():
    function = lambda texts: [{"label": "arts", "confidence": 0.7}, {"label": 2, "confidence": 1.0}]  # noqa: E731
    teacher = teachers.from_callable(function, fingerprint="1", class_names=LABELS)
    answer = teacher(["a", "b"])
    assert answer["votes"].tolist() == [[0, 1, 0], [0, 0, 1]]
    torch.testing.assert_close(answer["confidence"], torch.tensor([[0.7], [1.0]]))
    wrong = teachers.from_callable(
        lambda texts: [{"label": "arts", "confidence": 7}], fingerprint="1", class_names=LABELS
    )
    with pytest.raises(BadAnswer, match="confidence"):
        wrong(["a"])


@pytest.mark.parametrize("answers", ["text", "logprobs"])
def test_answers_that_name_no_class_end_the_ask(server, reply, tmp_path, answers):
    content = says("It is about") | {"usage": {"prompt_tokens": 9}}
    content["choices"][0]["logprobs"] = {"content": [{"top_logprobs": [{"token": "It", "logprob": -0.1}]}]}
    server.reply = lambda request: reply(content)
    pool, store = from_tensors([f"text {i}" for i in range(40)]), ResponseStore(str(tmp_path / "r.db"))
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(TeacherError, match=r"9 of 9 answers name no class\. Look at its prompt"),
    ):
        store.ask(chat(server, answers=answers), pool, budget=40, concurrency=8, trial=lambda answer: None)
    assert store.accounts().paid == 9  # one to try the student on, and eight at once


def test_a_first_answer_that_names_no_class_is_not_tried(server, reply, tmp_path):
    """The trial sees the first answer that does."""
    server.reply = lambda request: reply(says("?" if len(server.requests) == 1 else "arts"))
    tried = []
    pool = from_tensors([f"text {i}" for i in range(20)])
    transfer = ResponseStore(str(tmp_path / "r.db")).ask(chat(server), pool, budget=20, trial=tried.append)
    assert [answer["votes"].tolist() for answer in tried] == [[[0, 1, 0]]]
    assert (len(transfer), len(transfer.refused)) == (19, 1)


PROGRAM = """
import sys
from tuition import ResponseStore, data, teachers
labels = ["sports", "arts", "war"]
teacher = teachers.load("openai:m", task="chat", labels=labels, base_url=sys.argv[1], answers=sys.argv[2])
pool = data.from_tensors([f"{label} {i}" for i in range(20) for label in labels])
price = {"cost_per_call": 1, "cost_per_million_tokens": (1000, 100000)}
got = ResponseStore("r.db").ask(teacher, pool, budget=100, concurrency=2, check_answers=False, **price)
print(len(got), len(got.refused), got.accounts.paid)
"""


@pytest.mark.parametrize(("answers", "read"), [("text", "57 3 40"), ("logprobs", "60 0 40")])
def test_accounts_and_tokens_are_exact_after_a_kill(answers, read, server, reply, tmp_path):
    """One answer in twenty is nonsense; the asker is killed with two requests in flight, and started again.

    Nonsense with log-probabilities lists no label word, which is an answer too: the classes share what is left.
    """
    held, reached = threading.Event(), threading.Event()
    arrivals = itertools.count(1)

    def answer(request):
        arrival = next(arrivals)
        if arrival > 20 and not held.is_set():  # 20 are answered, two are held
            if arrival == 22:
                reached.set()
            held.wait(120)
        label, number = request.body["messages"][-1]["content"].split("Text: ")[1].split("\n")[0].split()
        nonsense = number == "3"
        usage = {"prompt_tokens": 30, "completion_tokens": 9 if nonsense else 1}
        content = says("As a model of language ..." if nonsense else label, usage=usage)
        if answers == "logprobs":
            top = [{"token": "?" if nonsense else "ABC"[LABELS.index(label)], "logprob": -0.1}]
            content["choices"][0]["logprobs"] = {"content": [{"top_logprobs": top}]}
        return reply(content)

    server.reply = answer
    command = [sys.executable, "-c", PROGRAM, server.url, answers]
    settings = {"cwd": tmp_path, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True}
    asker = subprocess.Popen(command, stdout=subprocess.PIPE, **settings)
    assert reached.wait(120)
    store = ResponseStore(str(tmp_path / "r.db"))
    while verify(store).intact < 20:  # the answers that arrived are recorded
        assert asker.poll() is None
        time.sleep(0.05)
    asker.kill()
    asker.communicate()
    held.set()
    assert store.accounts() == Accounts(paid=22, unknown=2)
    done = subprocess.run(command, capture_output=True, check=True, **settings)
    assert done.stdout.split() == read.split()
    assert store.accounts() == Accounts(paid=62, unknown=2, served=20)
    assert len(server.requests) == 62
    (found,) = usage(store)
    assert (found.bill.metered, found.bill.input_tokens, found.bill.output_tokens) == (60, 60 * 30, 57 + 3 * 9)
    assert found.bill.cost == 62 + Decimal(60 * 30 * 1000 + (57 + 3 * 9) * 100000) / 10**6


def test_a_teacher_that_is_dropped_leaves_no_connection_open(server, reply, monkeypatch):
    monkeypatch.setattr(server.RequestHandlerClass, "protocol_version", "HTTP/1.1")  # connections stay open
    server.reply = lambda request: reply(says("arts"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        chat(server)(["text"])
        gc.collect()
    assert [str(one.message) for one in caught if one.category is ResourceWarning] == []


def test_a_method_that_needs_logits_is_refused_before_a_call(server, tmp_path, monkeypatch, capsys):
    from tuition.cli import main as cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "news.csv").write_text("text\n" + "\n".join(f"match {i}" for i in range(30)))
    (tmp_path / "labels.txt").write_text("sports\narts\n")
    words = "tuition distill --data news.csv --teacher openai:m --calls 8 --student bag_8 --method kd"
    options = {"base_url": server.url, "task": "chat", "labels": "labels.txt", "answers": "text"}
    sets = [word for name, value in options.items() for word in ("--set", f"teacher.{name}={value}")]
    monkeypatch.setattr("sys.argv", [*words.split(), *sets, "--set", "test=null"])
    assert cli.main() == 2
    assert "answers with labels alone; use ckd, mse, ce or mixup" in " ".join(capsys.readouterr().err.split())
    assert server.requests == []
    assert not (tmp_path / "responses.db").exists()


def test_a_classifier_is_trained_from_the_command_line(server, reply, tmp_path, monkeypatch, capsys):
    """With tokens priced and summed."""
    from tuition.cli import main as cli

    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"{label} match {i}", "label": label} for i in range(30) for label in LABELS]
    for split in ("train", "test"):
        (tmp_path / "news").mkdir(exist_ok=True)
        (tmp_path / "news" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    usage = {"prompt_tokens": 30, "completion_tokens": 2}

    def answer(request):
        return reply(says(request.body["messages"][-1]["content"].split("Text: ")[1].split()[0], usage=usage))

    server.reply = answer
    words = "tuition distill --data news --teacher openai:m --calls 40 --student bag_8 --epochs 2 --out run"
    options = {"base_url": server.url, "task": "chat", "labels": "[sports, arts, war]", "answers": "text"}
    sets = [f"teacher.{name}={value}" for name, value in options.items()]
    arguments = [*words.split(), *(word for it in sets for word in ("--set", it)), "--cost-per-million-tokens", "1,10"]
    monkeypatch.setattr("sys.argv", arguments)
    assert cli.main() == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert math.isfinite(run["results"]["accuracy"])
    assert len(server.requests) == 40
    shown = " ".join(capsys.readouterr().out.split())
    assert "tokens in 1,200 tokens out 80" in shown
