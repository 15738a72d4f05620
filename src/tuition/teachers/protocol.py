"""What the store needs of a teacher: a name, a fingerprint, and answers to a batch of raw inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class Teacher(Protocol):
    """Answers batches of raw inputs.

    `__call__` takes one batch of a pool's inputs as asked (uint8 images (b, c, h, w), floats (b, d), or b strings) and
    returns named outputs, rows in the order of the inputs: "logits" (b, k) or "embedding" (b, d), and, where the
    teacher gives them, feature maps (b, ...) under their module path. One batch is one request. With `concurrency`
    above one, it is called from several threads at once.

    It raises `NotCharged` where it is certain that the request was not answered and costs nothing, `Refused` where the
    inputs themselves are the reason, and `BadAnswer` where it was answered, but not with what was asked for. After any
    other exception the store counts the batch as paid, because its fate is unknown.

    A teacher may have an attribute `layers`, the feature maps it adds to every answer. Stored answers without them are
    then not enough. It may have an attribute `max_batch`, the most inputs it takes in one request. One with a true
    attribute `local` computes on this machine, at no cost: it is tried on an input before calls are paid. It may have
    an attribute `class_names`, a tuple of distinct names in the order of its logits, or None where they are not known.
    A teacher elsewhere may have a function `check` of inputs, which sends nothing, and raises `NotCharged` where it is
    known already that no request about such inputs can be answered.
    """

    @property
    def name(self) -> str:
        """What people call it. A store binds a name to one fingerprint."""

    @property
    def fingerprint(self) -> str:
        """What makes its answers what they are: weights, or endpoint, model and settings. Parts are joined by "; "."""

    def __call__(self, inputs: Any, /) -> Mapping[str, Tensor]: ...


class NotCharged(Exception):  # noqa: N818 - the name is what it says, and public
    """The request was refused before it was answered (connection refused, 429, 5xx), and costs nothing.

    Args:
        message: why, in words fit for a sentence.
        retry_after: seconds to wait before the next request, where the teacher said so.
        retry: whether the same request may succeed later; False for a request that can only fail again.
        tokens: that the request used all the same, where the server says so; these alone are charged.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        retry: bool = True,
        tokens: Tokens | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.retry = retry
        self.tokens = tokens


def as_texts(inputs: Any, who: str = "this teacher") -> list[str]:
    """A batch of texts.

    Raises:
        NotCharged: the inputs are images or vectors.
    """
    if not isinstance(inputs, list):
        raise NotCharged(f"{who} reads text, not images or vectors", retry=False)
    return inputs


def as_tensor(inputs: Any, who: str = "this teacher") -> Tensor:
    """A batch of images or vectors.

    Raises:
        NotCharged: the inputs are texts.
    """
    if isinstance(inputs, list):
        raise NotCharged(f"{who} reads images or vectors, not text", retry=False)
    return inputs


class Refused(NotCharged):
    """The teacher refuses these inputs for what they are: too long, filtered, or too many at once. It costs nothing.

    The store splits such a request until the inputs at fault are known, leaves these out, and asks about the others.
    """

    def __init__(self, message: str, *, tokens: Tokens | None = None) -> None:
        super().__init__(message, retry=False, tokens=tokens)


@dataclass(frozen=True)
class Tokens:
    """Tokens that a request used, as its server counts them."""

    input: int = 0
    output: int = 0


class Answer(dict[str, Tensor]):
    """Named outputs, with the tokens that the request used; None where the server does not say."""

    tokens: Tokens | None = None


class BadAnswer(Exception):  # noqa: N818 - as above
    """The request was answered, but not with what was asked for: it is paid, and there is nothing to store.

    Args:
        message: why, in words fit for a sentence.
        tokens: that the request used, where the server says so.
    """

    def __init__(self, message: str, *, tokens: Tokens | None = None) -> None:
        super().__init__(message)
        self.tokens = tokens
