"""Weights on disk: written atomically as safetensors, read from safetensors or plain torch files, never unpickled."""

import os
import re
import secrets
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tuition.errors import UserError

_UNREADABLE = (
    "holds no weights that can be read: it is cut short or holds more than tensors; "
    "save model.state_dict() alone, as safetensors or with torch.save"
)


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the parameters and buffers as safetensors. A kill or a full disk leaves the old file or the new, whole.

    Raises:
        UserError: the file cannot be written.
    """
    # Cloned, since safetensors refuses tensors that share memory (tied weights).
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    write_atomically(path, save(tensors, metadata={"format": "pt"}))


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename: whoever reads `path` sees a whole file.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write.")
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; free space or choose another place.") from error


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy a file's weights into `model`, whose own precision stays; on any error the model is unchanged.

    Reads safetensors, and torch files that hold only tensors (`weights_only=True`), bare or under "state_dict" or
    "model", with or without the "module." of DataParallel.

    Raises:
        UserError: no such file, a corrupt one, or one for another model.
    """
    expected = model.state_dict()
    found = {_own_key(key, expected): value for key, value in _read(Path(path)).items()}
    for what, keys in (("lacks", expected.keys() - found.keys()), ("also has", found.keys() - expected.keys())):
        if keys:
            some = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise UserError(f"{path} is for another model: it {what} {some}; create the model it was saved from.")
    for key, own in expected.items():
        if found[key].shape != own.shape:
            raise UserError(_other_shape(model, key, path, found[key], own))
    model.load_state_dict(found)


def _own_key(key: str, expected: dict[str, Tensor]) -> str:
    """The key without the prefix that DataParallel or torch.compile left, where the model has none such itself."""
    return key if key in expected else re.sub(r"^(module\.|_orig_mod\.)+", "", key)


def _other_shape(model: nn.Module, key: str, path: str | Path, found: Tensor, own: Tensor) -> str:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if linear and key.rpartition(".")[0] == linear[-1] and found.shape[1:] == own.shape[1:]:
        n = len(found)
        return f"{path} is for {n} classes, the model has {len(own)}: create the model with num_classes={n}."
    shapes = f"{key} is {tuple(found.shape)} there and {tuple(own.shape)} here"
    return f"{path} is for another model: {shapes}; create the model it was saved from."


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with open(path, "rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # after the length of its JSON header
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
