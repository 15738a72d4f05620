"""Weights on disk: written atomically as safetensors, read from safetensors or plain torch files, never unpickled."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from tuition import disk
from tuition.errors import UserError

_UNREADABLE = (
    "holds no weights that can be read: it is cut short or holds more than tensors; "
    "save model.state_dict() alone, as safetensors or with torch.save"
)


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the parameters and buffers as safetensors. A kill leaves the old file or the new one.

    Raises:
        UserError: the model's state holds something other than tensors, or the file cannot be written.
    """
    disk.write(path, packed(model))


def packed(model: nn.Module) -> bytes:
    """The parameters and buffers as the content of a safetensors file.

    Raises:
        UserError: the model's state holds something other than tensors.
    """
    state = model.state_dict()
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise UserError(
            f"{other[0]} of the model's state is not a tensor and cannot be saved; return a tensor from "
            "get_extra_state, or leave it out."
        )
    # Cloned, since safetensors refuses tensors that share memory (tied weights).
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    return save(tensors, metadata={"format": "pt"})


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy a file's weights into `model`, whose own precision stays; on any error the model is unchanged.

    Reads safetensors, and torch files that hold only tensors (`weights_only=True`), bare or under "state_dict" or
    "model", with or without the "module." of DataParallel.

    Raises:
        UserError: no such file, a corrupt one, or one for another model.
    """
    load_tensors(model, read_tensors(path), path)


def unpacked(content: bytes) -> dict[str, Tensor]:
    """The tensors that `packed` packed."""
    return load(content)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path = "the file") -> None:
    """As `load_weights`, of the tensors that were read from `path`."""
    expected = model.state_dict()
    loaded = {_own_key(key, expected): value for key, value in tensors.items()}
    for what, keys in (("lacks", expected.keys() - loaded.keys()), ("also has", loaded.keys() - expected.keys())):
        if keys:
            some = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise UserError(f"{path} is for another model: it {what} {some}; create the model it was saved from.")
    for key, own in expected.items():
        if loaded[key].shape != own.shape:
            raise UserError(_other_shape(model, key, path, loaded[key], own))
    model.load_state_dict(loaded)


def _own_key(key: str, expected: dict[str, Tensor]) -> str:
    """The key without the prefix that DataParallel or torch.compile left, where the model has none such itself."""
    return key if key in expected else re.sub(r"^(module\.|_orig_mod\.)+", "", key)


def _other_shape(model: nn.Module, key: str, path: str | Path, loaded: Tensor, own: Tensor) -> str:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if linear and key.rpartition(".")[0] == linear[-1] and loaded.shape[1:] == own.shape[1:]:
        n = len(loaded)
        return f"{path} is for {n} classes, the model has {len(own)}: create the model with num_classes={n}."
    shapes = f"{key} is {tuple(loaded.shape)} there and {tuple(own.shape)} here"
    return f"{path} is for another model: {shapes}; create the model it was saved from."


def read_tensors(path: str | Path, *, safetensors_only: bool = False) -> dict[str, Tensor]:
    """The tensors of a file that `load_weights` reads.

    Raises:
        UserError: no such file, one that holds more than tensors, or another one than is asked for.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # after the length of its JSON header
        if safetensors_only and not is_safetensors:
            raise ValueError("it is not a safetensors file")
        content: Any = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a corrupt file may fail in any way
        raise UserError(f"{path} {_UNREADABLE}.") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if isinstance(content, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        return content
    raise UserError(f"{path} {_UNREADABLE}.")
