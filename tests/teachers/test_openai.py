"""OpenAI-compatible servers, by the published schema: embeddings, and classification by log-probabilities."""

import base64
import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition import ResponseStore
from tuition.data import Accounts, from_tensors
from tuition.errors import Notice, UserError
from tuition.store import TeacherError
from tuition.teachers import BadAnswer, NotCharged, Refused, Tokens, from_openai
from tuition.teachers.chat import score


def truth(text):
    return [len(text) + 0.25, -1.5, float(ord(text[0]))]


def packed(vector):
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def embeddings(request, reply, encode=list):
    """As in OpenAI's reference, with the items in another order than the inputs."""
    items = [
        {"object": "embedding", "index": i, "embedding": encode(truth(text))}
        for i, text in enumerate(request.body["input"])
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return reply({"object": "list", "model": request.body["model"], "data": items[::-1], "usage": usage})


@pytest.mark.parametrize(("asked", "encode"), [("float", list), ("base64", packed), ("float", packed)])
def test_embeddings_of_a_pool(server, reply, tmp_path, monkeypatch, asked, encode):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    server.reply = lambda request: embeddings(request, reply, encode)
    teacher = from_openai("org/encoder", encoding=asked)
    pool = from_tensors(["one", "two", "three", "two", "fünf"])
    transfer = ResponseStore(str(tmp_path / "store.db")).ask(teacher, pool, budget=4, batch_size=3, concurrency=2)
    assert torch.equal(transfer.responses["embedding"], torch.tensor([truth(text) for text in pool.inputs]))
    assert transfer.accounts == Accounts(paid=4, served=1)
    assert sorted(len(request.body["input"]) for request in server.requests) == [1, 3]
    for request in server.requests:
        assert (request.method, request.path) == ("POST", "/v1/embeddings")
        assert request.headers["authorization"] == "Bearer sk-of-the-environment"
        assert request.body == {"model": "org/encoder", "encoding_format": asked, "input": request.body["input"]}
    assert teacher.fingerprint == f"openai {server.url}/v1; model org/encoder; task embeddings"
    assert teacher.name.startswith("encoder-")


def test_dimensions(server, reply):
    server.reply = lambda request: embeddings(request, reply)
    assert from_openai("m", base_url=server.url, dimensions=3)(["a"])["embedding"].shape == (1, 3)
    assert server.requests[0].body["dimensions"] == 3
    with pytest.raises(BadAnswer, match=r"widths \[3\], where 2 was"):
        from_openai("m", base_url=server.url, dimensions=2)(["a"])


def test_what_makes_another_teacher():
    def fingerprint(model="m", **settings):
        return from_openai(model, **settings).fingerprint

    chat = {"task": "chat", "labels": ["good", "bad"]}
    different = [
        fingerprint(),
        fingerprint(model="n"),
        fingerprint(base_url="https://elsewhere.example/v1"),
        fingerprint(dimensions=8),
        fingerprint(**chat),
        fingerprint(**chat | {"task": "completion"}),
        fingerprint(**chat | {"labels": ["bad", "good"]}),
        fingerprint(**chat, words=["yes", "no"]),
        fingerprint(**chat, prompt="Good or bad? {text}"),
        fingerprint(**chat, top=5),
    ]
    assert len(set(different)) == len(different)
    alike = fingerprint(timeout=3, requests_per_minute=60, key_variable="OTHER_KEY", encoding="base64", name="me")
    assert alike == fingerprint()


MALFORMED = {
    "a row short": lambda items: items[1:],
    "a row twice": lambda items: [items[0], items[0]],
    "a gap": lambda items: [items[0], {**items[1], "index": 2}],
    "from one": lambda items: [{**item, "index": item["index"] + 1} for item in items],
    "an index twice, once left out": lambda items: [{**items[0], "index": 0}, {"embedding": [1.0, 2.0, 3.0]}],
    "indices that are not numbers": lambda items: [{**item, "index": True} for item in items],
    "two widths": lambda items: [items[0], {**items[1], "embedding": [1.0]}],
    "no numbers": lambda items: [items[0], {**items[1], "embedding": ["a", "b", "c"]}],
    "beyond all floats": lambda items: [items[0], {**items[1], "embedding": [10**400, 1, 1]}],
    "nested": lambda items: [items[0], {**items[1], "embedding": [[1.0, 2.0, 3.0]]}],
    "null": lambda items: [items[0], {**items[1], "embedding": None}],
    "bad base64": lambda items: [items[0], {**items[1], "embedding": "AAA*"}],
    "cut base64": lambda items: [items[0], {**items[1], "embedding": "AAAAAAA="}],
    "empty": lambda items: [{**item, "embedding": []} for item in items],
    "no items": lambda items: None,
    "texts": lambda items: ["one", "two"],
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_embeddings_are_paid_and_not_stored(server, reply, tmp_path, fault):
    def answer(request):
        sound = embeddings(request, reply)
        return reply({"data": MALFORMED[fault](sound.content["data"])})

    server.reply = answer
    store, pool = ResponseStore(str(tmp_path / "store.db")), from_tensors(["one", "two"])
    teacher = from_openai("m", base_url=server.url)
    with pytest.raises(TeacherError, match="that answer is paid, not stored"):
        store.ask(teacher, pool, budget=2)
    assert store.accounts() == Accounts(paid=2)
    assert store.plan(teacher, pool).new == 2


ORDERED = {
    "no index": lambda items: [{"embedding": item["embedding"]} for item in reversed(items)],
    "null": lambda items: [{**item, "index": None} for item in reversed(items)],
    "0 left out": lambda items: [{k: v for k, v in item.items() if k != "index" or v} for item in items],
    "texts": lambda items: [{**item, "index": str(item["index"])} for item in items],
    "decimals": lambda items: [{**item, "index": float(item["index"])} for item in items],
}


@pytest.mark.parametrize("form", ORDERED)
@pytest.mark.parametrize("texts", [["one"], ["one", "three"], ["one", "three", "of", "fifteen"]])
def test_an_order_that_is_not_ambiguous_is_taken(server, reply, form, texts):
    server.reply = lambda request: reply({"data": ORDERED[form](embeddings(request, reply).content["data"])})
    answer = from_openai("m", base_url=server.url)(texts)
    assert torch.equal(answer["embedding"], torch.tensor([truth(text) for text in texts]))


def test_a_lone_item_for_a_lone_input(server, reply):
    server.reply = lambda request: reply({"data": embeddings(request, reply).content["data"][0]})
    teacher = from_openai("m", base_url=server.url)
    assert torch.equal(teacher(["one"])["embedding"], torch.tensor([truth("one")]))
    with pytest.raises(BadAnswer, match="not a list of items"):
        teacher(["one", "two"])


USAGES = [
    ({"prompt_tokens": 8, "total_tokens": 8}, Tokens(8, 0)),
    ({"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}, Tokens(8, 2)),
    ({"input_tokens": 8, "output_tokens": 2}, Tokens(8, 2)),
    ({"prompt_tokens": 8, "total_tokens": 11}, Tokens(8, 3)),
    ({"total_tokens": 8}, Tokens(8, 0)),
    ({"prompt_tokens": "8", "completion_tokens": 2.0}, Tokens(8, 2)),
    ({"prompt_tokens": 0, "total_tokens": 0}, Tokens(0, 0)),
    ({"prompt_tokens": None, "total_tokens": True}, None),
    ({"prompt_tokens": -8}, None),
    ([8], None),
    (None, None),
    ({}, None),
]


@pytest.mark.parametrize(("usage", "expected"), USAGES)
def test_tokens(server, reply, usage, expected):
    server.reply = lambda request: reply(embeddings(request, reply).content | {"usage": usage})
    assert from_openai("m", base_url=server.url)(["one"]).tokens == expected
    server.reply = lambda request: reply({"data": [], "usage": usage})
    with pytest.raises(BadAnswer) as bad:
        from_openai("m", base_url=server.url)(["one"])
    assert bad.value.tokens == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_rows_that_are_not_finite_are_not_stored(server, reply, tmp_path, value):
    def answer(request):
        sound = embeddings(request, reply)
        sound.content["data"][0]["embedding"][1] = value  # of the last input
        return sound

    server.reply = answer
    store, pool = ResponseStore(str(tmp_path / "store.db")), from_tensors(["one", "two"])
    with pytest.raises(TeacherError, match="1 of 2 inputs with NaN or infinity"):
        store.ask(from_openai("m", base_url=server.url), pool, budget=2)
    assert store.plan(from_openai("m", base_url=server.url), pool).new == 1


@pytest.mark.parametrize("content", [[], "text", None, {"data": {}}, {"data": [1]}, 3])
def test_answers_of_another_kind(server, reply, content):
    server.reply = lambda request: reply(content)
    with pytest.raises(BadAnswer):
        from_openai("m", base_url=server.url)(["a"])
    with pytest.raises(BadAnswer):
        from_openai("m", base_url=server.url, task="chat", labels=["a", "b"])(["a"])


def test_only_texts():
    with pytest.raises(NotCharged, match="reads text") as refused:
        from_openai("m", base_url="http://localhost:1")(torch.zeros(2, 3))
    assert not refused.value.retry


# -- classification ----------------------------------------------------------------------------------------------------

LISTED = [("A", math.log(0.5)), (" A", math.log(0.1)), ("C", math.log(0.2)), ("The", math.log(0.05))]


def chat(request, reply):
    """As in OpenAI's reference for chat completions."""
    top = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in LISTED]
    content = [{"token": "A", "logprob": LISTED[0][1], "bytes": [65], "top_logprobs": top}]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "A"},
        "logprobs": {"content": content, "refusal": None},
        "finish_reason": "length",
    }
    return reply({"object": "chat.completion", "model": "m", "choices": [choice]})


def completion(request, reply):
    """As in OpenAI's reference for legacy completions, with the choices in another order than the prompts."""
    logprobs = {"tokens": ["A"], "token_logprobs": [-0.7], "top_logprobs": [dict(LISTED)], "text_offset": [0]}
    choices = [{"text": "A", "index": i, "logprobs": logprobs} for i in range(len(request.body["prompt"]))]
    return reply({"object": "text_completion", "model": "m", "choices": choices[::-1]})


@pytest.mark.parametrize("task", ["chat", "completion"])
def test_classes_by_log_probabilities(server, reply, tmp_path, task):
    server.reply = lambda request: {"chat": chat, "completion": completion}[task](request, reply)
    teacher = from_openai("m", task=task, base_url=server.url, labels=["sports", "arts", "science", "war"], top=4)
    pool = from_tensors(["a {text} in braces", "b", "c"])
    transfer = ResponseStore(str(tmp_path / "store.db")).ask(teacher, pool, budget=3, batch_size=64, concurrency=2)
    # 0.85 is listed; the two that are missing share 0.15, but none may have more than the 0.05 of the least listed.
    expected = torch.tensor([0.6, 0.05, 0.2, 0.05]).log()
    torch.testing.assert_close(transfer.responses["logits"], expected.expand(3, 4))
    assert torch.equal(transfer.responses["missing"], torch.full((3, 1), 2.0))

    bodies = [request.body for request in server.requests]
    prompts = [body["messages"][0]["content"] for body in bodies] if task == "chat" else bodies[0]["prompt"]
    assert len(bodies) == (3 if task == "chat" else 1)
    assert {(body["max_tokens"], body["temperature"]) for body in bodies} == {(1, 1)}
    assert {prompt.count("A: sports\nB: arts\nC: science\nD: war\n") for prompt in prompts} == {1}
    assert any("Text: a {text} in braces\n" in prompt for prompt in prompts)
    paths = {"chat": "/chat/completions", "completion": "/completions"}
    assert {request.path for request in server.requests} == {paths[task]}
    assert teacher.class_names == ("sports", "arts", "science", "war")
    assert from_openai("m", base_url=server.url).class_names is None


@pytest.mark.parametrize(
    ("listed", "logits", "missing"),
    [
        ([("yes", -0.1), ("no", -3.0)], [-0.1, -3.0], 0),
        ([("Ġye", -0.1), ("▁N", -3.0), ("\n", -5.0)], [-0.1, -3.0], 0),  # first tokens, as their tokenizers write them
        ([("yes", 0.0)], [0.0, math.log(1e-9)], 1),  # no probability is left
        ([("yes", math.log(0.6)), ("well", math.log(0.3))], [math.log(0.6), math.log(0.1)], 1),  # a tenth is left
        ([("yes", -9999.0), ("no", -math.inf)], [math.log(1e-9)] * 2, 0),
        ([("yesterday", math.log(0.9)), ("", -4.0)], [-4.0, -4.0], 2),  # does not begin a word; nor does nothing
    ],
)
def test_rules_of_scoring(listed, logits, missing):
    row, count = score(listed, ["yes", "no"])
    torch.testing.assert_close(row, torch.tensor(logits))
    assert count == missing


@given(st.lists(st.floats(0.01, 1), min_size=6, max_size=6), st.integers(1, 5))
def test_the_missing_are_bounded_by_what_is_listed(weights, top):
    """With the whole distribution known and its `top` tokens listed: exact where listed, bounded where not."""
    chances = [weight / sum(weights) for weight in weights]
    ranked = sorted(zip("ABCDEF", chances, strict=True), key=lambda pair: -pair[1])
    listed = [(token, math.log(chance)) for token, chance in ranked[:top]]
    row, missing = score(listed, list("ABCDEF"))
    assert missing == 6 - top
    given_away = 0.0
    for letter, value in zip("ABCDEF", row.exp().tolist(), strict=True):
        if letter in dict(listed):
            assert value == pytest.approx(math.exp(dict(listed)[letter]))
        else:
            assert value <= ranked[top - 1][1] * (1 + 1e-5)
            given_away += value
    assert given_away == pytest.approx(1 - sum(chance for _, chance in ranked[:top]), abs=1e-5)


@pytest.mark.parametrize(
    ("path", "options", "hint"),
    [
        ("", {"task": "chat", "labels": ["a", "b"]}, "is /v1 missing"),
        ("/v1", {}, "a chat model needs task=chat and labels"),
        ("/v1", {"task": "chat", "labels": ["a", "b"]}, r"status 404: no such path\)"),
    ],
)
def test_a_path_that_a_server_does_not_know_is_told_with_its_likely_cause(server, reply, tmp_path, path, options, hint):
    server.reply = lambda request: reply({"detail": "no such path"}, 404)
    teacher = from_openai("m", base_url=server.url + path, **options)
    with pytest.raises(TeacherError, match=f"gave no answer .*{hint}"):
        ResponseStore(str(tmp_path / "r.db")).ask(teacher, from_tensors(["text"]), budget=1)
    assert len(server.requests) == 1


def test_labels_without_their_task_are_refused():
    with pytest.raises(UserError, match="set task=chat"):
        from_openai("m", labels=["a", "b"])


def test_a_model_that_never_says_a_label_word_is_told(server, reply):
    server.reply = lambda request: chat(request, reply)
    teacher = from_openai("m", task="chat", base_url=server.url, labels=["x", "y"], words=["yes", "no"])
    with pytest.warns(Notice, match=r"no likely answer of the model begins with yes, no; look at its prompt, or set"):
        answer = teacher(["text"])
    assert answer["missing"].item() == 2


@pytest.mark.parametrize("logprobs", [None, {}, {"content": []}, {"content": [{"token": "A", "top_logprobs": []}]}])
def test_a_server_without_log_probabilities(server, reply, logprobs):
    server.reply = lambda request: reply({"choices": [{"index": 0, "logprobs": logprobs}]})
    with pytest.raises(BadAnswer, match="does this server give them"):
        from_openai("m", task="chat", base_url=server.url, labels=["x", "y"])(["text"])


@pytest.mark.parametrize("task", ["chat", "completion"])
def test_an_input_that_is_filtered_is_refused(server, reply, task):
    def answer(request):
        found = {"chat": chat, "completion": completion}[task](request, reply).content
        found["choices"][0] |= {"finish_reason": "content_filter", "logprobs": None}
        return reply(found | {"usage": {"prompt_tokens": 9, "completion_tokens": 1}})

    server.reply = answer
    with pytest.raises(Refused, match="filters") as refused:
        from_openai("m", task=task, base_url=server.url, labels=["x", "y"])(["text"])
    assert refused.value.tokens == Tokens(9, 1)


def test_an_error_in_place_of_a_choice(server, reply):
    error = {"code": 502, "message": "Provider returned error"}
    server.reply = lambda request: reply({"choices": [{"index": 0, "error": error, "finish_reason": "error"}]})
    with pytest.raises(NotCharged, match="Provider returned error") as refused:
        from_openai("m", task="chat", base_url=server.url, labels=["x", "y"])(["text"])
    assert refused.value.retry


@pytest.mark.parametrize("value", [math.nan, 3.2, "high", None, 10**400])
def test_log_probabilities_that_are_none(server, reply, value):
    listed = {"content": [{"top_logprobs": [{"token": "A", "logprob": -0.1}, {"token": "B", "logprob": value}]}]}
    server.reply = lambda request: reply({"choices": [{"index": 0, "logprobs": listed}]})
    with pytest.raises(BadAnswer, match="no log-probabilities"):
        from_openai("m", task="chat", base_url=server.url, labels=["x", "y"])(["text"])


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"task": "images"}, "choose one"),
        ({"task": "chat"}, "2 or more labels"),
        ({"task": "chat", "labels": ["a", "a"]}, "more than once"),
        ({"task": "chat", "labels": ["only"]}, "2 or more labels"),
        ({"task": "chat", "labels": ["a", "b"], "words": ["yes"]}, "a word each"),
        ({"task": "chat", "labels": ["a", "b", "c"], "words": ["negative", "Neutral", "pos"]}, "first letters"),
        ({"task": "chat", "labels": ["a", "b"], "words": ["", "b"]}, "first letters"),
        ({"task": "chat", "labels": list(map(str, range(27)))}, "more than there are letters"),
        ({"task": "chat", "labels": ["a", "b"], "prompt": "Which?"}, "holds {text} once"),
    ],
)
def test_settings_that_do_not_fit(settings, wrong):
    with pytest.raises(UserError, match=wrong):
        from_openai("m", **settings)
