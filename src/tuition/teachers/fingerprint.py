"""Digests that tell one teacher from another."""

from __future__ import annotations

import hashlib
import re

import torch
from torch import nn
from torch.fx import GraphModule
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

from tuition.errors import UserError
from tuition.identity import content_digest, tensor_bytes


def short(fingerprint: str) -> str:
    """Eight hexadecimal digits for default names."""
    return hashlib.blake2b(fingerprint.encode(), digest_size=4).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Digest of the names, types, shapes and contents of the state, the same on every device.

    Raises:
        UserError: weights that were not made yet.
    """
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(parameter) or parameter.is_meta:
            raise UserError(f"{name} of this {type(model).__name__} has no values yet; load or run the model first.")
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            for part in tensor_bytes(value):
                digest.update(part)
        else:  # packed parameters of quantised modules, extra state
            digest.update(f"{name} {content_digest(value)}\n".encode())
    return digest.hexdigest()


def structure_digest(model: nn.Module) -> str:
    """Digest of the module tree as printed, without the addresses that change from process to process, and of the code
    of exported and scripted modules."""
    graphs = []
    for module in model.modules():
        if isinstance(module, GraphModule):
            graphs.append(str(module.code))
        elif isinstance(module, ScriptModule) and hasattr(module, "forward"):
            code, constants = module.code_with_constants
            graphs += [code, content_digest(constants.const_mapping)]
    printed = "\n".join([re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model)), *graphs])
    return hashlib.blake2b(printed.encode(), digest_size=8).hexdigest()
