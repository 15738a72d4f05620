"""Digests that tell one teacher from another."""

from __future__ import annotations

import hashlib
import re

import torch
from torch import nn


def short(fingerprint: str) -> str:
    """Eight hexadecimal digits for default names."""
    return hashlib.blake2b(fingerprint.encode(), digest_size=4).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Digest of the names, types, shapes and bytes of the state, the same on every device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{name} {value!r}\n".encode())
    return digest.hexdigest()


def structure_digest(model: nn.Module) -> str:
    """Digest of the module tree as printed, without the addresses that change from process to process."""
    printed = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))
    return hashlib.blake2b(printed.encode(), digest_size=8).hexdigest()
