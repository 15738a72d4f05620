"""Published weights in the layout of RepDistiller (Tian et al. 2020, arXiv 1910.10699): its names for our modules."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from tuition.errors import UserError
from tuition.models.weights import load_tensors, read_tensors
from tuition.models.zoo import create

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of its inputs, CIFAR-100 in [0, 1]

_RESNET = (
    (r"layer(\d)\.(\d+)\.downsample\.", r"stage\1.\2.shortcut."),
    (r"layer(\d)\.", r"stage\1."),
    (r"conv1\.", "stem.0."),
    (r"bn1\.", "stem.1."),
    (r"fc\.", "classifier."),
)
_WRN = (
    (r"block(\d)\.layer\.(\d+)\.convShortcut\.", r"stage\1.\2.shortcut."),
    (r"block(\d)\.layer\.", r"stage\1."),
    (r"conv1\.", "stem."),
    (r"bn1\.", "bn."),
    (r"fc\.", "classifier."),
)


def load_repdistiller(path: str | Path, name: str) -> nn.Module:
    """The zoo's model `name` with the weights of a checkpoint of RepDistiller: {"model": state_dict}, or a state dict.

    Its number of classes is the checkpoint's. Files of PyTorch 0.4.0 do not count batches; this count is then 0.

    Raises:
        UserError: the file cannot be read, or is for another model.
    """
    tensors = {_our_key(key, name): value for key, value in read_tensors(path).items()}
    if "classifier.weight" not in tensors:
        raise UserError(f"{path} has no weights of a {name}; give the architecture it was trained as.")
    model = create(name, num_classes=len(tensors["classifier.weight"]))
    uncounted = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    load_tensors(model, uncounted | tensors, path)
    return model.eval()


def _our_key(key: str, name: str) -> str:
    key = re.sub(r"^(module\.)+", "", key)
    if name.startswith("vgg"):  # one sequence a block: convolution, batch norm and ReLU in turn
        match = re.match(r"block(\d)\.(\d+)\.", key)
        if match is None:
            return key
        place = int(match[2])
        return f"stage{int(match[1]) + 1}.{place // 3}.{place % 3}.{key[match.end() :]}"
    for pattern, ours in _WRN if name.startswith("wrn") else _RESNET:
        if re.match(pattern, key):
            return re.sub(f"^{pattern}", ours, key)
    return key
