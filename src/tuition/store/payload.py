"""Responses as bytes: one safetensors blob a commit, which also names the inputs it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from tuition.data.pool import DIGEST_BYTES
from tuition.errors import UserError

INPUTS = "input_digests"  # the blob's own entry, uint8 (b, 16): an index that points to a wrong row is noticed
STORED = (torch.float32, torch.float16, torch.bfloat16)  # types of outputs
RESERVED = (INPUTS, "__metadata__")  # names that outputs cannot have; the second is safetensors' own


def shrink(outputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs as they are stored: vectors in `dtype`, feature maps (b, c, ...) in bfloat16.

    What would overflow stays float32, so that nothing finite becomes infinite.
    """
    stored = {}
    for name, value in outputs.items():
        small = value.to(torch.bfloat16 if value.ndim > 2 else dtype)
        stored[name] = (small if bool(torch.isfinite(small).all()) else value.float()).contiguous()
    return stored


def layout(outputs: Mapping[str, Tensor]) -> str:
    """Names, types and row shapes of outputs, as canonical JSON: {"logits": ["float32", [10]]}."""
    parts = {name: [str(value.dtype).removeprefix("torch."), list(value.shape[1:])] for name, value in outputs.items()}
    return json.dumps(parts, sort_keys=True)


def read_layout(text: str) -> dict[str, tuple[str, list[int]]]:
    """The inverse of `layout`: name -> (type, shape of a row).

    Raises:
        UserError: it is not what `layout` wrote.
    """
    try:
        outputs = {
            name: (str(dtype), [int(size) for size in shape]) for name, (dtype, shape) in json.loads(text).items()
        }
        if not outputs:
            raise ValueError("no outputs")
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            "the store's list of outputs is damaged; restore a copy of the store, or drop what is damaged with "
            "`tuition store prune --damaged`."
        ) from None
    return outputs


def encode(digests: Sequence[bytes], outputs: Mapping[str, Tensor]) -> bytes:
    """A blob of b rows: the inputs' digests and the outputs."""
    names = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, DIGEST_BYTES)
    return save({INPUTS: names, **outputs})


class UndecodableError(Exception):
    """Bytes are not a blob."""


def decode(payload: bytes) -> tuple[list[bytes], dict[str, Tensor]]:
    """Digests of b different inputs, and the outputs (b, ...) of a blob.

    Raises:
        UndecodableError: it is not a blob, whatever its checksum.
    """
    try:
        outputs = load(payload)
    except Exception as error:  # safetensors raises its own kinds, and those of what it meets
        raise UndecodableError(f"it cannot be decoded ({type(error).__name__})") from error
    inputs = outputs.pop(INPUTS, None)
    if inputs is None or inputs.dtype != torch.uint8 or inputs.ndim != 2 or inputs.shape[1] != DIGEST_BYTES:
        raise UndecodableError("it does not name its inputs")
    digests = split_digests(inputs.numpy().tobytes())
    if not outputs or not digests or len(set(digests)) < len(digests):
        raise UndecodableError("it holds no answers, or several to one input")
    for name, value in outputs.items():
        if value.dtype not in STORED or value.ndim == 0 or len(value) != len(digests):
            raise UndecodableError(f"its {name[:60]!r} are not answers to {len(digests)} inputs")
    return digests, outputs


def split_digests(joined: bytes) -> list[bytes]:
    """Digests that were joined to one string of bytes."""
    return [joined[i : i + DIGEST_BYTES] for i in range(0, len(joined), DIGEST_BYTES)]


def checksum(fingerprint: str, payload: bytes) -> bytes:
    """Digest of a blob and of the teacher it belongs to."""
    return hashlib.blake2b(fingerprint.encode() + payload, digest_size=DIGEST_BYTES).digest()
