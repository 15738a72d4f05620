"""Any OpenAI-compatible server as a teacher: embeddings, and classification by the log-probabilities of label words."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import string
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.teachers.fingerprint import short
from tuition.teachers.http import Client, RemoteTeacher
from tuition.teachers.names import class_names
from tuition.teachers.protocol import Answer, BadAnswer, Refused
from tuition.teachers.replies import Trouble, in_order, metered, refusal, tokens_of, trouble_in

BASE_URL = "https://api.openai.com/v1"
MOST_EMBEDDINGS = 2048  # inputs a request, by OpenAI's reference
FLOOR = math.log(1e-9)  # what servers print for less likely tokens is noise, or minus infinity
PROMPT = "Which class does the text belong to? Answer with one letter only.\n\n{labels}\n\nText: {text}\n\nAnswer:"

Task = Literal["embeddings", "chat", "completion"]


def from_openai(
    model: str,
    *,
    task: Task = "embeddings",
    base_url: str | None = None,
    labels: Sequence[str] = (),
    words: Sequence[str] | None = None,
    prompt: str = PROMPT,
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

    "embeddings" answers {"embedding": float32 (b, d)}, one request a batch. "chat" and "completion" classify: one token
    is generated, and the answer is {"logits": float32 (b, k), "missing": (b, 1)}.

    The logits are the log-probabilities of the label words, not renormalised. A listed token counts for the word that
    it begins (case and white space aside); several tokens of one word are added up. Words that are not among the `top`
    listed tokens share the probability that no listed token has, evenly, but none is given more than the least likely
    listed token has; "missing" says how many these are. Nothing is less than log 1e-9. Sampling is at temperature 1,
    because some servers give log-probabilities after tempering. The teacher's class names are the labels.

    "chat" takes one input a request (ask with `concurrency`), "completion" a batch of prompts.

    Args:
        model: as the server calls it.
        base_url: up to and with /v1; by default what OPENAI_BASE_URL says, else OpenAI itself.
        labels: what the classes are called in the prompt, in the order of the logits.
        words: what the model is to say for each class. They differ in their first letters, so that the first token
            tells them apart in every tokenizer; by default A, B, C and so on.
        prompt: {text} stands for the input and {labels} for lines such as "A: sports".
        top: how many tokens the server lists; OpenAI's most is 20 for chat and 5 for completions.
        dimensions: width of the embeddings, of models that can shorten them.
        encoding: how embeddings travel; base64 takes less than half the bytes. Both are understood in any case.
        name: what people call it; by default the model and eight digits of the fingerprint.
        key_variable: environment variable that holds the key, where the server needs one.
        timeout, requests_per_minute, inputs_per_minute: see `tuition.teachers.http.Client`.

    Raises:
        UserError: an unknown task, labels or words that do not fit, or an address that cannot be one.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL") or BASE_URL
    rates = {"requests_per_minute": requests_per_minute, "inputs_per_minute": inputs_per_minute}
    client = Client(url, key_variable=key_variable, timeout=timeout, **rates)
    names = None
    if task == "embeddings":
        settings: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        body = {"model": model, "encoding_format": encoding, **settings}
        max_batch, answer = MOST_EMBEDDINGS, partial(_embed, client, body, dimensions)
    elif task in ("chat", "completion"):
        said, names = _words(labels, words), class_names(labels)
        before, after = _prompt(prompt, labels, said)
        asked = hashlib.blake2b(json.dumps([before, after, said]).encode(), digest_size=8).hexdigest()
        settings = {"classes": len(said), "prompt": asked, "top": top}
        body = {"model": model, "max_tokens": 1, "temperature": 1}
        body |= {"logprobs": top} if task == "completion" else {"logprobs": True, "top_logprobs": top}
        max_batch = MOST_EMBEDDINGS if task == "completion" else 1
        answer = partial(_classify, client, body, before, after, said)
    else:
        raise UserError(f"an OpenAI-compatible server gives embeddings, chat or completion, not {task!r}; choose one.")
    parts = [f"openai {client.base_url}", f"model {model}", f"task {task}"]
    fingerprint = "; ".join(parts + [f"{setting} {value}" for setting, value in settings.items()])
    name = name or f"{model.rpartition('/')[2]}-{short(fingerprint)}"

    return RemoteTeacher(name, fingerprint, answer, lambda _: client.check(), max_batch, names, "texts")


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
        found = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.empty((0, 0))
    if found.ndim != 1:
        raise BadAnswer("an embedding is not a list of numbers")
    with np.errstate(over="ignore"):  # infinity is found where all answers are checked
        return found.astype(np.float32)


# -- classification ----------------------------------------------------------------------------------------------------


def _words(labels: Sequence[str], words: Sequence[str] | None) -> list[str]:
    if words is None and len(labels) > len(string.ascii_uppercase):
        raise UserError(f"{len(labels)} classes are more than there are letters; use embeddings, or give words.")
    said = list(string.ascii_uppercase[: len(labels)] if words is None else words)
    if len(said) != len(labels) or len(said) < 2:
        raise UserError(f"{len(labels)} labels and {len(said)} words do not fit; give 2 or more labels, a word each.")
    if len({word.strip()[:1].casefold() for word in said} - {""}) < len(said):
        raise UserError("the first letters of the words must differ; leave out words, and the model says A, B, C.")
    return said


def _prompt(prompt: str, labels: Sequence[str], words: Sequence[str]) -> tuple[str, str]:
    """What stands before and after the text."""
    if prompt.count("{text}") != 1:
        raise UserError("a prompt holds {text} once, where the input is to stand; put it in.")
    lines = "\n".join(f"{word}: {label}" for word, label in zip(words, labels, strict=True))
    before, after = (part.replace("{labels}", lines) for part in prompt.split("{text}"))
    return before, after


def _classify(
    client: Client, body: dict[str, Any], before: str, after: str, words: Sequence[str], inputs: Any
) -> Answer:
    prompts = [before + text + after for text in inputs]
    if "top_logprobs" in body:
        messages = [{"role": "user", "content": prompts[0]}]
        answer = client.post("/chat/completions", {**body, "messages": messages}, inputs=1, holding=["choices"])
    else:
        answer = client.post("/completions", {**body, "prompt": prompts}, inputs=len(prompts), holding=["choices"])
    _check_choices(client, answer)
    return metered(answer, partial(_logits, len(prompts), words))


def _check_choices(client: Client, answer: Any) -> None:
    """Whether each choice is an answer, not an error or a refusal.

    Raises:
        Refused: an input, or what the model says to it, was filtered.
        NotCharged: there is an error in place of a choice.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    for choice in choices if isinstance(choices, list) else [choices]:
        if not isinstance(choice, dict):
            continue
        if choice.get("finish_reason") == "content_filter":
            raise Refused(f"{client.base_url} filters the content of an input", tokens=tokens_of(answer))
        if choice.get("error"):
            trouble = trouble_in(choice) or Trouble()
            why = f"{client.base_url} answered with an error: {client.quoted(trouble.words)}"
            raise refusal(why, None, trouble, tokens=tokens_of(answer))


def _logits(count: int, words: Sequence[str], answer: Any) -> dict[str, Tensor]:
    listed = [_listed(choice) for choice in in_order(answer, "choices", count)]
    logits, missing = zip(*(score(tokens, words) for tokens in listed), strict=True)
    if len(words) in missing:
        warnings.warn("the model lists none of the label words for some inputs; look at its prompt", stacklevel=2)
    return {"logits": torch.stack(logits), "missing": torch.tensor(missing, dtype=torch.float32).unsqueeze(1)}


def _listed(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """The most likely first tokens with their log-probabilities, from a choice of either kind."""
    try:
        found = choice["logprobs"]
        if "content" in found:
            tokens = [(item["token"], float(item["logprob"])) for item in found["content"][0]["top_logprobs"]]
        else:
            tokens = [(token, float(value)) for token, value in found["top_logprobs"][0].items()]
        if tokens and all(isinstance(token, str) and value < 0.01 for token, value in tokens):  # NaN is not less
            return tokens
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
        pass
    raise BadAnswer("the answer lists no log-probabilities of likely tokens; does this server give them?")


def score(listed: Iterable[tuple[str, float]], words: Sequence[str]) -> tuple[Tensor, int]:
    """Log-probabilities (k,) of words that differ in their first letters, and how many of them are not listed.

    Args:
        listed: the most likely tokens with their log-probabilities; see `from_openai` for the rule.
    """
    found: list[list[float]] = [[] for _ in words]
    listed = list(listed)
    for token, value in listed:
        begun = token.strip(" \n\r\tĠ▁").casefold()  # some servers show a space as their tokenizer writes it
        for values, word in zip(found, words, strict=True):
            if begun and word.strip().casefold().startswith(begun):
                values.append(value)
    missing = sum(not values for values in found)
    rest = max(0.0, 1 - sum(math.exp(value) for _, value in listed)) / max(1, missing)
    share = min(math.log(rest) if rest else -math.inf, *(value for _, value in listed))
    row = [torch.tensor(values).logsumexp(0) if values else torch.tensor(share) for values in found]
    return torch.stack(row).clamp(min=FLOOR), missing
