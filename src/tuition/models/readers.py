"""Readers of text: from texts to token ids. A reader belongs to a model and is saved with it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tuition.errors import UserError, needs_extra


class TextReader(nn.Module, ABC):
    """From n texts to token ids (n, length) int32, padded at their end. Token ids are left as they are.

    Attributes:
        length: tokens a text.
        padding: id that fills short texts.
    """

    length: int
    padding: int

    def forward(self, texts: Sequence[str] | Tensor) -> Tensor:
        return texts if isinstance(texts, Tensor) else self.read(texts)

    @abstractmethod
    def read(self, texts: Sequence[str]) -> Tensor:
        """Token ids (n, length) int32.

        Raises:
            UserError: an empty text; its row is named.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What makes an equal reader, beside the content of `files`."""

    def files(self) -> dict[str, bytes]:
        """Files of a run folder that belong to the reader, by name."""
        return {}


TOKENIZER = "tokenizer.json"


class Tokenizer(TextReader):
    """A tokenizer of Hugging Face's `tokenizers`.

    Args:
        content: text of a tokenizer.json.
        length: the most tokens of a text; what is beyond is cut off.
        padding: id that fills short texts.
    """

    def __init__(self, content: str, length: int, padding: int) -> None:
        super().__init__()
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError as error:
            raise needs_extra("a student of transformers", "transformers", error) from error
        try:
            self._backend = Backend.from_str(content)
        except Exception as error:  # of Rust: whatever is wrong with the text
            raise UserError(f"{TOKENIZER} cannot be read ({error}); restore it.") from error
        self._backend.no_padding()
        self._backend.enable_truncation(length)
        self.content, self.length, self.padding = content, length, padding

    def read(self, texts: Sequence[str]) -> Tensor:
        rows = torch.full((len(texts), self.length), self.padding, dtype=torch.int32)
        for row, encoded in enumerate(self._backend.encode_batch(list(texts))):
            if not texts[row].strip():
                raise UserError(f"text {row} is empty; leave it out.")
            rows[row, : len(encoded.ids)] = torch.tensor(encoded.ids, dtype=torch.int32)
        return rows

    def settings(self) -> dict[str, Any]:
        return {"length": self.length, "padding": self.padding}

    def files(self) -> dict[str, bytes]:
        return {TOKENIZER: self.content.encode()}

    def extra_repr(self) -> str:
        digest = hashlib.blake2b(self.content.encode(), digest_size=8).hexdigest()
        return f"{digest}, length={self.length}, padding={self.padding}"
