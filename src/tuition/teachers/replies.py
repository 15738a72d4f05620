"""What servers say in JSON: errors of every make, the tokens that a request used, and items in the inputs' order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tuition.teachers.protocol import Answer, BadAnswer, NotCharged, Refused, Tokens

LONGEST = 300  # characters of a server's message that are shown

REFUSED_FOR_NOW = (408, 409, 425, 429)  # and all of 500 and above
OF_INPUTS = (400, 413, 422)
WORDS = ("message", "error_description", "errorMessage", "error_msg", "msg", "Message", "title")

# What servers say, where a status does not tell it.
NO_CREDIT = re.compile(
    "insufficient.?(quota|credit|balance|fund)|out of credit|payment required|billing.?(hard.?limit|not.?active)"
    "|account.{0,20}(deactivated|suspended|disabled)",
    re.I,
)
OF_SETTINGS = re.compile(
    "unsupported.?(parameter|value)|unknown.?parameter|model.{0,80}not.?(found|exist|support|available)|no such model"
    "|api.?key|unauthori[sz]ed|authenticat|permission",
    re.I,
)
SETTINGS = ("model", "logprobs", "top_logprobs", "encoding_format", "dimensions", "temperature")
FILTERED = re.compile("content.?(filter|policy|management)|moderation|flagged|safety.?(system|filter)", re.I)
TOO_LONG = re.compile(
    "context.?(length|window|size)|maximum.{0,20}(length|tokens|input)|too.?(long|large|big|many (inputs|tokens))"
    "|(input|prompt|request|payload|text|string).{0,40}exceed",
    re.I,
)
OF_AN_INPUT = re.compile("invalid.?(input|prompt|request|argument)|validation", re.I)
RATES = re.compile("rate.?limit|too many requests|resource.?exhausted|throttl|per.?(min|sec|hour|day)", re.I)
FOR_NOW = re.compile(
    "overload|capacity|busy|unavailable|try again|time.?out|timed out|loading|not ready|internal|server.?error|gateway",
    re.I,
)


@dataclass(frozen=True)
class Trouble:
    """An error as a server tells it: its words, and everything else that says of what kind it is."""

    words: str = ""
    kind: str = ""
    param: str = ""
    status: int | None = None


def line(text: str) -> str:
    """A message on one line, without control characters and shortened."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text[: 20 * LONGEST]).split())
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "…"


def parse(content: bytes) -> Any:
    """The JSON of a body, in any encoding of Unicode, with or without a mark at its beginning.

    Raises:
        ValueError: it is not JSON; the message continues "answered with".
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        start = content[:200].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        raise ValueError("nothing")
    if start.startswith(b"<"):
        raise ValueError("a page, not JSON; is the address complete, up to and with /v1 where the server has it?")
    if start.startswith((b"data:", b"event:", b":")):
        raise ValueError("a stream of events, not JSON")
    raise ValueError("something that is not JSON, or not all of it")


# -- errors ------------------------------------------------------------------------------------------------------------


def trouble_in(body: Any) -> Trouble | None:
    """The error in a body, in any of the common shapes; None where there is none."""
    if isinstance(body, list) and len(body) == 1:  # as Gemini does
        body = body[0]
    if not isinstance(body, dict):
        return None
    for name in ("error", "errors", "detail", "fault"):
        if said := body.get(name):
            return _trouble(said, body)
    if _first(body, WORDS) or body.get("object") == "error":
        return _trouble(body, body)
    return None


def _trouble(said: Any, around: Mapping[str, Any]) -> Trouble:
    if isinstance(said, list) and said:
        said = said[0]
    if not isinstance(said, dict):
        said = {"message": said}
    if isinstance(said.get("error"), dict):
        said = said["error"]
    words = _first(said, (*WORDS, "faultstring", "detail", "error")) or json.dumps(said, ensure_ascii=False)
    about = [said.get(name) for name in ("type", "code", "status", "error_type")]
    about += [around.get(name) for name in ("type", "code", "status", "error_type", "error_code")]
    kind = " ".join(str(each) for each in about if isinstance(each, (str, int)) and not isinstance(each, bool))
    numbers = [int(number) for number in re.findall(r"(?<!\d)[45]\d\d(?!\d)", kind)]
    param = said.get("param")
    return Trouble(words, kind, param if isinstance(param, str) else "", numbers[0] if numbers else None)


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(fields[name]) for name in names if isinstance(fields.get(name), (str, int)) and fields[name]), "")


def refusal(why: str, status: int | None, trouble: Trouble, *, tokens: Tokens | None = None) -> NotCharged:
    """What a refusal means: that it may work later, that these inputs are at fault, or that nothing will help.

    Args:
        why: the message.
        status: of the reply; None for an error inside a success.
        trouble: what the body says.
        tokens: that the request used all the same.
    """
    said, status = f"{trouble.kind} {trouble.words[:LONGEST]}", status or trouble.status
    of_settings = trouble.param in SETTINGS or OF_SETTINGS.search(said)
    later = status is not None and (status >= 500 or status in REFUSED_FOR_NOW)
    # A refusal of inputs may quote them, and they may speak of money.
    if NO_CREDIT.search(trouble.kind if status in OF_INPUTS else said) or "credit balance is too low" in said:
        return NotCharged(why, retry=False, tokens=tokens)
    if FILTERED.search(said) and status in (None, 403, *OF_INPUTS):
        return Refused(why, tokens=tokens)
    if later and TOO_LONG.search(said) and (status != 429 or "request too large" in said.lower()):
        return Refused(why, tokens=tokens)
    if status in OF_INPUTS and (TOO_LONG.search(said) or not of_settings):
        return Refused(why, tokens=tokens)
    if status is not None:
        return NotCharged(why, retry=later, tokens=tokens)
    if RATES.search(said):
        return NotCharged(why, tokens=tokens)
    if (TOO_LONG.search(said) or OF_AN_INPUT.search(said)) and not of_settings:
        return Refused(why, tokens=tokens)
    return NotCharged(why, retry=bool(FOR_NOW.search(said)) and not of_settings, tokens=tokens)


# -- tokens ------------------------------------------------------------------------------------------------------------


def tokens_of(answer: Any) -> Tokens | None:
    """The tokens that an answer says it used; None where it does not say."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    read, written, total = (
        next((count for name in names if (count := _count(usage.get(name))) is not None), None)
        for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"), ("total_tokens",))
    )
    if read is None and total is not None:
        read = max(0, total - (written or 0))
    if written is None and total is not None and read is not None:
        written = max(0, total - read)
    if read is None and written is None:
        return None
    return Tokens(read or 0, written or 0)


def _count(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def metered(answer: Any, read: Callable[[Any], dict[str, Tensor]]) -> Answer:
    """What `read` finds in an answer, with the tokens that it used, also where it is bad."""
    tokens = tokens_of(answer)
    try:
        outputs = Answer(read(answer))
    except BadAnswer as error:
        error.tokens = tokens
        raise
    outputs.tokens = tokens
    return outputs


# -- order -------------------------------------------------------------------------------------------------------------


def in_order(answer: Any, items: str, count: int) -> list[dict[str, Any]]:
    """The items of an answer in the order of the inputs, one an input.

    Where no item has an index, the list is in order. An index that is left out where the others are 1 and up is 0.

    Raises:
        BadAnswer: there are fewer or more items, or an index is missing, there twice or out of range.
    """
    listed = answer.get(items) if isinstance(answer, dict) else None
    if isinstance(listed, dict) and count == 1:
        listed = [listed]
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise BadAnswer(f"{items} is not a list of items")
    if len(listed) != count:
        raise BadAnswer(f"{items} holds {len(listed)} items for {count} inputs")
    places = [item.get("index") for item in listed]
    if all(place is None for place in places):
        return listed
    numbers = [0 if place is None else _count(place) for place in places]
    if sorted(-1 if number is None else number for number in numbers) != list(range(count)):
        raise BadAnswer(f"{items} does not hold each of {count} items once, by its index")
    by_index = dict(zip(numbers, listed, strict=True))
    return [by_index[i] for i in range(count)]
