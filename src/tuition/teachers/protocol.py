"""The base class of teachers, and what a request may end with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tuition.errors import UserError

Reads = Literal["anything", "bytes", "floats", "texts"]


class Teacher(ABC):
    """Answers batches of raw inputs. Subclass it, or wrap a function with `from_callable`.

    A subclass has a `name`, a `fingerprint` and `__call__`. Everything else has a default.

    Attributes:
        name: what people call it. A store binds a name to one fingerprint.
        fingerprint: what makes its answers what they are: weights, or endpoint, model and settings. Parts are joined
            by "; ".
        class_names: distinct names in the order of its logits; None where they are not known.
        layers: the feature maps it adds to every answer. Stored answers without them are then not enough.
        local: whether it computes on this machine, at no cost. It is then tried on an input before calls are paid.
        max_batch: the most inputs it takes in one request; None for any number.
        reads: what it reads: "bytes" (uint8 images 0 to 255), "floats" (images in [0, 1], and vectors), "texts", or
            "anything" that a pool holds.
        calls_per_input: how many calls one input counts as, against the budget and in price.
        hard_labels: whether it answers with "votes", not with "logits". It names its classes then.
    """

    if TYPE_CHECKING:  # fields of a subclass, or properties

        @property
        def name(self) -> str: ...

        @property
        def fingerprint(self) -> str: ...

    class_names: tuple[str, ...] | None = None
    layers: tuple[str, ...] = ()
    local: bool = False
    max_batch: int | None = None
    reads: Reads = "anything"
    calls_per_input: int = 1
    hard_labels: bool = False

    @abstractmethod
    def __call__(self, inputs: Any, /) -> Mapping[str, Tensor]:
        """Named outputs for one batch of a pool's inputs, which is one request.

        Args:
            inputs: uint8 images (b, c, h, w), floats (b, ...), or b strings. With `concurrency` above one, batches
                arrive from several threads at once.

        Returns:
            "logits" (b, k), "embedding" (b, d), or "votes" (b, k): the share of votes that each class has, with their
            "confidence" (b, 1) where it is known. Feature maps (b, ...) stand under their module path.

        Raises:
            NotCharged: the request was certainly not answered and costs nothing.
            Refused: the inputs themselves are the reason.
            BadAnswer: it was answered, but not with what the request asked for.
            Exception: any other. The store counts the batch as paid, because its fate is unknown.
        """

    def check(self, inputs: Any) -> None:
        """Whether such inputs can be asked about, as far as that is known without a request.

        Raises:
            NotCharged: they cannot.
        """
        check_kind(self.reads, inputs)

    def with_layers(self, layers: Sequence[str]) -> Teacher:
        """The same teacher, whose answers hold these feature maps too.

        Raises:
            UserError: it has no such layers.
        """
        if layers:
            raise UserError(f"this teacher does not give the maps {', '.join(layers)}; use a method without maps.")
        return self

    def to(self, device: torch.device | str) -> Teacher:
        """The same teacher on this device, where that is its choice."""
        return self


@dataclass(frozen=True, eq=False)
class Wrapped(Teacher):
    """An object that has `name`, `fingerprint` and a call; made by `as_teacher`."""

    teacher: Any
    name: str
    fingerprint: str
    class_names: tuple[str, ...] | None = None
    layers: tuple[str, ...] = ()
    local: bool = False
    max_batch: int | None = None
    reads: Reads = "anything"
    calls_per_input: int = 1
    hard_labels: bool = False

    def __call__(self, inputs: Any, /) -> Mapping[str, Tensor]:
        return self.teacher(inputs)

    def check(self, inputs: Any) -> None:
        getattr(self.teacher, "check", super().check)(inputs)


def wrapped(teacher: Any) -> Wrapped:
    """A teacher of any class, with defaults for what it does not declare.

    Raises:
        UserError: it is not a teacher.
    """
    named = all(isinstance(getattr(teacher, it, None), str) for it in ("name", "fingerprint"))
    if isinstance(teacher, type) or not callable(teacher) or not named:
        kind = f"the class {teacher.__name__}" if isinstance(teacher, type) else type(teacher).__name__
        raise UserError(f"{kind} is not a teacher; use teachers.from_torch(model) or teachers.from_callable(function).")
    declared = ("class_names", "layers", "local", "max_batch", "reads", "calls_per_input", "hard_labels")
    values = {it: getattr(teacher, it) for it in declared if hasattr(teacher, it)}
    return Wrapped(teacher, teacher.name, teacher.fingerprint, **values)


def as_teacher(teacher: Any) -> Teacher:
    """A teacher as the store asks it.

    Raises:
        UserError: it is not a teacher.
    """
    return teacher if isinstance(teacher, Teacher) else wrapped(teacher)


def as_floats(inputs: Any) -> Any:
    """Images of bytes as floats in [0, 1]; anything else as it is."""
    return inputs.float() / 255 if isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 else inputs


def check_kind(reads: Reads, inputs: Any) -> None:
    """Raises NotCharged where a batch of a pool's inputs is of another kind than a teacher reads."""
    if reads == "texts" and isinstance(inputs, Tensor):
        raise NotCharged("this teacher reads text, not images or vectors", retry=False)
    if reads == "floats" and not isinstance(inputs, Tensor):
        raise NotCharged("this teacher reads images or vectors, not text", retry=False)
    if reads == "bytes" and not (isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 and inputs.ndim == 4):
        raise NotCharged("this teacher reads uint8 images (b, c, h, w), not vectors or text", retry=False)


class NotCharged(Exception):  # noqa: N818 - the name is what it says, and public
    """The request was refused before it was answered (connection refused, 429, 5xx). It costs nothing.

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
    """The request was answered, but not with what it asked for: it is paid, and there is nothing to store.

    Args:
        message: why, in words fit for a sentence.
        tokens: that the request used, where the server says so.
    """

    def __init__(self, message: str, *, tokens: Tokens | None = None) -> None:
        super().__init__(message)
        self.tokens = tokens
