"""Classes of texts from a language model: by the log-probabilities of label words, or by reading what it writes."""

from __future__ import annotations

import hashlib
import json
import math
import re
import string
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from tuition.errors import Notice, UserError
from tuition.teachers.http import Client
from tuition.teachers.names import class_names
from tuition.teachers.protocol import Answer, BadAnswer, Refused
from tuition.teachers.replies import Trouble, in_order, metered, refusal, tokens_of, trouble_in

Answers = Literal["logprobs", "text", "json"]

FLOOR = math.log(1e-9)  # what servers print for less likely tokens is noise, or minus infinity
LETTER = "Which class does the text belong to? Answer with one letter only.\n\n{labels}\n\nText: {text}\n\nAnswer:"
NAME = "Which class does the text belong to? Answer with its name only.\n\n{labels}\n\nText: {text}\n\nAnswer:"


@dataclass(frozen=True)
class Prompt:
    """The question about each text."""

    system: str
    before: str
    after: str
    labels: tuple[str, ...]
    words: tuple[str, ...]

    def messages(self, text: str) -> list[dict[str, str]]:
        user = {"role": "user", "content": self.before + text + self.after}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]

    @property
    def digest(self) -> str:
        parts = [self.before, self.after, self.words, *([self.system] if self.system else [])]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def make_prompt(
    labels: Sequence[str] | str | Path,
    words: Sequence[str] | None,
    prompt: str | Path | None,
    system: str | Path,
    answers: Answers,
) -> Prompt:
    """The prompt of a classification.

    Raises:
        UserError: labels, words or the template do not fit, or a file cannot be read.
    """
    if isinstance(labels, (str, Path)):
        labels = [line.strip() for line in _content(labels).splitlines() if line.strip()]
    labels = class_names(labels or None) or ()
    by_name = answers != "logprobs"
    if by_name:
        said, template = list(words or labels), NAME
        _check_words(labels, said, first_letters=False)
        pairs = zip(said, labels, strict=True)
        lines = "\n".join(f"- {label}" if words is None else f"- {word}: {label}" for word, label in pairs)
    else:
        if words is None and len(labels) > len(string.ascii_uppercase):
            raise UserError(
                f"{len(labels)} classes are more than there are letters; use embeddings, answers=text, or give words."
            )
        said, template = list(string.ascii_uppercase[: len(labels)] if words is None else words), LETTER
        _check_words(labels, said, first_letters=True)
        lines = "\n".join(f"{word}: {label}" for word, label in zip(said, labels, strict=True))
    template = template if prompt is None else _content(prompt)
    if template.count("{text}") != 1:
        raise UserError("a prompt holds {text} once, where the input is to stand; put it in.")
    before, after = (part.replace("{labels}", lines) for part in template.split("{text}"))
    return Prompt(_content(system), before, after, tuple(labels), tuple(said))


def _content(value: str | Path) -> str:
    """A text, or the content of the file that a path, or a name that ends in .txt or .md, stands for."""
    if isinstance(value, str) and not value.endswith((".txt", ".md")):
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{value} cannot be read ({error}); name a file of text in UTF-8.") from None


def _check_words(labels: Sequence[str], words: Sequence[str], *, first_letters: bool) -> None:
    if len(words) != len(labels) or len(words) < 2:
        raise UserError(f"{len(labels)} labels and {len(words)} words do not fit; give 2 or more labels, a word each.")
    distinct = {word.strip().casefold()[: 1 if first_letters else None] for word in words} - {""}
    if len(distinct) < len(words):
        if first_letters:
            raise UserError("the first letters of the words must differ; leave out words, and the model says A, B, C.")
        raise UserError("two words differ only in case or white space; give each class a word of its own.")


# -- what a model writes -----------------------------------------------------------------------------------------------


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


@dataclass(frozen=True)
class Reader:
    """The class that a written answer names.

    The answer is the word of a class, case, white space, quotes and full stops aside. With `as_json` it is an object
    with a "label"; with a `pattern`, the first group (or all) of the first match.
    """

    words: tuple[str, ...]
    as_json: bool
    pattern: re.Pattern[str] | None

    def __call__(self, text: str | None) -> int | None:
        """The index of the class; None where the answer names none."""
        if text is None:
            return None
        if self.as_json:
            try:
                text = str(json.loads(text)["label"])
            except (ValueError, KeyError, TypeError, RecursionError):
                return None
        elif self.pattern is not None:
            match = self.pattern.search(text)
            if match is None:
                return None
            text = match[1 if match.re.groups else 0] or ""
        known = [_plain(word) for word in self.words]
        return known.index(_plain(text)) if _plain(text) in known else None


def _plain(text: str) -> str:
    return text.strip().strip("\"'`*.").strip().casefold()


def compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UserError(f"the pattern {pattern!r} is not a regular expression ({error}); correct it.") from None


def read_answer(
    client: Client, body: dict[str, Any], prompt: Prompt, reader: Reader, votes: int, inputs: list[str]
) -> Answer:
    """{"votes": (1, k), "unread": (1, 1)} from `votes` answers to one text, in one request."""
    body = body | {"messages": prompt.messages(inputs[0])}
    answer = client.post("/chat/completions", body, inputs=1, holding=["choices"])
    check_choices(client, answer)
    return metered(answer, partial(_count_votes, reader, votes))


def _count_votes(reader: Reader, votes: int, answer: Any) -> dict[str, Tensor]:
    try:
        texts = [_Choice.model_validate(choice).message.content for choice in answer["choices"]]
    except (ValidationError, TypeError, KeyError) as error:
        raise BadAnswer("the answer is not a chat completion") from error
    if len(texts) != votes:
        raise BadAnswer(f"the server gave {len(texts)} of {votes} votes; does it take n? If not, set votes to 1")
    classes = [index for text in texts if (index := reader(text)) is not None]
    shares = torch.bincount(torch.tensor(classes, dtype=torch.int64), minlength=len(reader.words)).float()
    unread = torch.tensor([[1 - len(classes) / votes]])
    return {"votes": shares[None] / max(len(classes), 1), "unread": unread}


def response_format(words: Sequence[str]) -> dict[str, Any]:
    """The request for a structured answer, {"label": one of the words}."""
    label = {"type": "string", "enum": list(words)}
    schema = {"type": "object", "properties": {"label": label}, "required": ["label"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": schema}}


# -- log-probabilities -------------------------------------------------------------------------------------------------


def score_answer(client: Client, body: dict[str, Any], prompt: Prompt, inputs: list[str]) -> Answer:
    """{"logits": (b, k), "missing": (b, 1)} from the log-probabilities of the first token."""
    if "top_logprobs" in body:
        path, body = "/chat/completions", body | {"messages": prompt.messages(inputs[0])}
    else:
        path, body = "/completions", body | {"prompt": [prompt.before + text + prompt.after for text in inputs]}
    answer = client.post(path, body, inputs=len(inputs), holding=["choices"])
    check_choices(client, answer)
    return metered(answer, partial(_logits, len(inputs), prompt.words))


def check_choices(client: Client, answer: Any) -> None:
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
        asked = ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")
        warnings.warn(
            f"for some texts no likely answer of the model begins with {asked}; look at its prompt, or set "
            "teacher.answers=text where it writes words.",
            Notice,
            stacklevel=1,
        )
    return {"logits": torch.stack(logits), "missing": torch.tensor(missing, dtype=torch.float32).unsqueeze(1)}


def _listed(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """The most likely first tokens with their log-probabilities, from a choice of either kind."""
    try:
        logprobs = choice["logprobs"]
        if "content" in logprobs:
            tokens = [(item["token"], float(item["logprob"])) for item in logprobs["content"][0]["top_logprobs"]]
        else:
            tokens = [(token, float(value)) for token, value in logprobs["top_logprobs"][0].items()]
        if tokens and all(isinstance(token, str) and value < 0.01 for token, value in tokens):  # NaN is not less
            return tokens
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
        pass
    raise BadAnswer(
        "the answer lists no log-probabilities of likely tokens; does this server give them? If not, set answers=text"
    )


def score(listed: Iterable[tuple[str, float]], words: Sequence[str]) -> tuple[Tensor, int]:
    """Log-probabilities (k,) of words that differ in their first letters, and how many of them are not listed.

    Args:
        listed: the most likely tokens with their log-probabilities; see `from_openai` for the rule.
    """
    values_of: list[list[float]] = [[] for _ in words]
    listed = list(listed)
    for token, value in listed:
        begun = token.strip(" \n\r\tĠ▁").casefold()  # some servers show a space as their tokenizer writes it
        for values, word in zip(values_of, words, strict=True):
            if begun and word.strip().casefold().startswith(begun):
                values.append(value)
    missing = sum(not values for values in values_of)
    rest = max(0.0, 1 - sum(math.exp(value) for _, value in listed)) / max(1, missing)
    share = min(math.log(rest) if rest else -math.inf, *(value for _, value in listed))
    row = [torch.tensor(values).logsumexp(0) if values else torch.tensor(share) for values in values_of]
    return torch.stack(row).clamp(min=FLOOR), missing
