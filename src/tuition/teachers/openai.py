"""Any OpenAI-compatible server as a teacher: embeddings, and classification by a language model."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.teachers import chat
from tuition.teachers.fingerprint import short
from tuition.teachers.http import Client, RemoteTeacher
from tuition.teachers.protocol import Answer, BadAnswer
from tuition.teachers.replies import in_order, metered

BASE_URL = "https://api.openai.com/v1"
MOST_EMBEDDINGS = 2048  # inputs a request, by OpenAI's reference

Task = Literal["embeddings", "chat", "completion"]


def from_openai(
    model: str,
    *,
    task: Task = "embeddings",
    base_url: str | None = None,
    labels: Sequence[str] | str | Path = (),
    words: Sequence[str] | None = None,
    prompt: str | Path | None = None,
    system: str | Path = "",
    answers: chat.Answers = "logprobs",
    pattern: str | None = None,
    votes: int = 1,
    temperature: float | None = None,
    top: int = 20,
    dimensions: int | None = None,
    encoding: Literal["float", "base64"] = "float",
    name: str | None = None,
    key_variable: str = "OPENAI_API_KEY",
    timeout: float = 60.0,
    requests_per_minute: float | None = None,
    inputs_per_minute: float | None = None,
) -> RemoteTeacher:
    """A teacher of texts behind an OpenAI-compatible server.

    "embeddings" answers {"embedding": float32 (b, d)}, one request a batch. "chat" and "completion" classify: "chat"
    takes one input a request (ask with `concurrency`), "completion" a batch of prompts. The teacher's class names are
    the labels.

    With `answers="logprobs"` one token is generated, and the answer is {"logits": float32 (b, k), "missing": (b, 1)}.
    The logits are the log-probabilities of the label words, not renormalised. A listed token counts for the word that
    it begins (case and white space aside); several tokens of one word are added up. Words that are not among the `top`
    listed tokens share the probability that no listed token has, evenly, but none gets more than the least likely
    listed token has; "missing" says how many these are. Nothing is less than log 1e-9. Sampling is at temperature 1,
    because some servers give log-probabilities after tempering.

    With "text" or "json" the model writes the label ("chat" alone), and the answer is {"votes": (1, k), "unread":
    (1, 1)}: the share of the votes that each class has, and the share of all answers that name no class. The store
    keeps an input with no vote, leaves it out of the transfer set, and names it.

    Args:
        model: as the server calls it.
        base_url: up to and with /v1; by default what OPENAI_BASE_URL says, else OpenAI itself.
        labels: what the classes are called in the prompt, in the order of the logits.
        words: what the model is to say for each class. They differ in their first letters, so that the first token
            tells them apart in every tokenizer; by default A, B, C and so on.
        prompt: {text} stands for the input and {labels} for lines such as "A: sports". This, `system` and `labels` (a
            label a line) may be a file: a path, or a name that ends in .txt or .md.
        system: the system prompt of "chat"; none by default.
        answers: "logprobs"; "text", where the model writes a word; or "json", where it writes {"label": word} as the
            server's structured output (`response_format`) makes it.
        pattern: a regular expression that finds the word in a text: its first group, or all of the match.
        votes: answers to each input, asked for in one request (`n`). Each counts as a call.
        temperature: of written answers; by default the server's, because some models reject any.
        top: how many tokens the server lists; OpenAI's most is 20 for chat and 5 for completions.
        dimensions: width of the embeddings, of models that can shorten them.
        encoding: how embeddings travel; base64 takes less than half the bytes. Both are understood in any case.
        name: what people call it; by default the model and eight digits of the fingerprint.
        key_variable: environment variable that holds the key, where the server needs one.
        timeout: seconds for a request, from its connection to the last byte of the answer.
        requests_per_minute: the most that all threads together send, evenly spaced.
        inputs_per_minute: likewise, of inputs.

    Raises:
        UserError: an unknown task, labels or words that do not fit, or an address that cannot be one.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL") or BASE_URL
    rates = {"requests_per_minute": requests_per_minute, "inputs_per_minute": inputs_per_minute}
    client = Client(url, key_variable=key_variable, timeout=timeout, hint=_hint(url, task), **rates)
    names, hard = None, False
    if task == "embeddings":
        if labels or words or prompt or system:
            raise UserError("labels, words and prompts are of task=chat; set task=chat, or leave them out.")
        settings: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        body = {"model": model, "encoding_format": encoding, **settings}
        max_batch, answer = MOST_EMBEDDINGS, partial(_embed, client, body, dimensions)
    elif task in ("chat", "completion"):
        question = chat.make_prompt(labels, words, prompt, system, answers)
        names, settings = question.labels, {"classes": len(question.words), "prompt": question.digest}
        if answers == "logprobs":
            if temperature is not None or votes != 1:
                raise UserError("temperature and votes are of written answers; set answers=text, or leave them out.")
            settings["top"] = top
            body = {"model": model, "max_tokens": 1, "temperature": 1}
            body |= {"logprobs": top} if task == "completion" else {"logprobs": True, "top_logprobs": top}
            max_batch = MOST_EMBEDDINGS if task == "completion" else 1
            answer = partial(chat.score_answer, client, body, question)
        else:
            settings |= {"answers": answers, "pattern": pattern, "votes": votes}
            settings |= {} if temperature is None else {"temperature": temperature}
            hard = True
            max_batch, answer = 1, _reading(client, model, question, task, answers, pattern, votes, temperature)
    else:
        raise UserError(f"an OpenAI-compatible server gives embeddings, chat or completion, not {task!r}; choose one.")
    parts = [f"openai {client.base_url}", f"model {model}", f"task {task}"]
    fingerprint = "; ".join(parts + [f"{setting} {value}" for setting, value in settings.items()])
    name = name or f"{model.rpartition('/')[2]}-{short(fingerprint)}"

    return RemoteTeacher(name, fingerprint, answer, lambda _: client.check(), max_batch, names, "texts", votes, hard)


def _hint(url: str, task: Task) -> str:
    """What may be wrong where a server does not know what it is asked for."""
    if not urlsplit(url).path.strip("/"):
        return "is /v1 missing at the end of its address?"
    return "a chat model needs task=chat and labels, because embeddings are asked for" if task == "embeddings" else ""


def _reading(
    client: Client,
    model: str,
    prompt: chat.Prompt,
    task: Task,
    answers: str,
    pattern: str | None,
    votes: int,
    temperature: float | None,
) -> Any:
    """A function that asks for written answers and reads them."""
    if task != "chat":
        raise UserError("written answers are read from chat; set task=chat.")
    if votes < 1:
        raise UserError(f"votes is at least 1, not {votes}; choose another.")
    body: dict[str, Any] = {"model": model}
    body |= {} if temperature is None else {"temperature": temperature}
    body |= {"n": votes} if votes > 1 else {}
    body |= {"response_format": chat.response_format(prompt.words)} if answers == "json" else {}
    reader = chat.Reader(prompt.words, answers == "json", chat.compiled(pattern))
    return partial(chat.read_answer, client, body, prompt, reader, votes)


# -- embeddings --------------------------------------------------------------------------------------------------------


def _embed(client: Client, body: dict[str, Any], width: int | None, inputs: Any) -> Answer:
    answer = client.post("/embeddings", {**body, "input": inputs}, inputs=len(inputs), holding=["data"])
    return metered(answer, partial(_embeddings, len(inputs), width))


def _embeddings(count: int, width: int | None, answer: Any) -> dict[str, Tensor]:
    rows = [_vector(item.get("embedding")) for item in in_order(answer, "data", count)]
    widths = {len(row) for row in rows}
    if len(widths) > 1 or 0 in widths or widths != {width or min(widths)}:
        raise BadAnswer(f"embeddings of widths {sorted(widths)}, where {width or 'one width'} was expected")
    return {"embedding": torch.from_numpy(np.stack(rows))}


def _vector(value: Any) -> np.ndarray:
    """A vector from a list of numbers, or from base64 of little-endian float32."""
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
        vector = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty((0, 0))
    if vector.ndim != 1:
        raise BadAnswer("an embedding is not a list of numbers")
    with np.errstate(over="ignore"):  # infinity is vector where all answers are checked
        return vector.astype(np.float32)
