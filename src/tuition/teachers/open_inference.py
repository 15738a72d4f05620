"""A model behind the Open Inference Protocol, version 2 over REST: Triton, TorchServe, KServe, MLServer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.teachers.fingerprint import short
from tuition.teachers.http import Client, RemoteTeacher, plain_url
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.protocol import Answer, BadAnswer, NotCharged, Reads
from tuition.teachers.pytorch import Scaled, scaled
from tuition.teachers.replies import metered

FLOATS = ("FP16", "FP32", "FP64", "BF16")
NUMBERS = (*FLOATS, *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)))
READS: dict[str, Reads] = {"BYTES": "texts", "UINT8": "bytes", "any": "anything"}
FLOOR = 1e-9  # probabilities below this are taken for this

Returns = Literal["logits", "probabilities", "embedding"]


@dataclass(frozen=True)
class Model:
    """What a server's metadata say of a model, as far as they say it.

    Attributes:
        input, output: names of the tensors; without an output the server gives all it has, which must be one.
        datatype: of the input.
        shape: of the input's rows, -1 where any size fits; None if not known.
        width: columns of the output, None if not known.
        version: the only version there is, or None.
    """

    input: str
    output: str | None
    datatype: str | None
    shape: tuple[int, ...] | None
    width: int | None
    version: str | None


def from_v2(
    url: str,
    *,
    returns: Returns = "logits",
    input: str | None = None,
    output: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    max_batch: int = 1024,
    name: str | None = None,
    key_variable: str | None = None,
    timeout: float = 60.0,
    requests_per_minute: float | None = None,
    inputs_per_minute: float | None = None,
) -> RemoteTeacher:
    """A teacher behind a server that speaks the Open Inference Protocol V2 (REST, JSON tensors).

    The model's metadata are read now, which is free: names, datatypes and shapes. Text is sent as BYTES. uint8 images
    go as they are to a model that takes UINT8; for any other they become floats in [0, 1], then (x - mean) / std if
    these are set. Rows are flattened for a model that takes vectors, and must else have the declared shape.

    It answers {"logits": float32 (b, k)}, or {"embedding": float32 (b, d)}; the logarithms of probabilities are logits,
    with 1e-9 for anything less.

    Args:
        url: http(s)://host[:port]/v2/models/NAME, or with /versions/VERSION after it.
        returns: what the output is.
        input: which tensor, where the model has several or its metadata name none.
        output: likewise.
        num_classes: the columns of the output, where the metadata do not say.
        class_names: of the classes, in the order of the logits.
        mean: one value a channel, for inputs in [0, 1].
        std: likewise.
        max_batch: the most inputs it takes in one request.
        name: what people call it; by default the model's name and eight digits of the fingerprint.
        key_variable: environment variable that holds a key to send as a bearer token.
        timeout: seconds for a request, from its connection to the last byte of the answer.
        requests_per_minute: the most that all threads together send, evenly spaced.
        inputs_per_minute: likewise, of inputs.

    Raises:
        UserError: no such address, no answer from it, or a choice of tensors that must be made.
    """
    prepare = scaled(mean, std)
    if returns not in ("logits", "probabilities", "embedding"):
        raise UserError(f"a model returns logits, probabilities or embedding, not {returns!r}; choose one.")
    match = re.fullmatch(r"(.+)(/v2/models/([^/]+)(/versions/([^/]+))?)", plain_url(url))
    if match is None:
        raise UserError("a V2 model's address ends in /v2/models/NAME or /v2/models/NAME/versions/VERSION; give it so.")
    host, path, model_name, _, version = match.groups()
    rates: dict[str, Any] = {"requests_per_minute": requests_per_minute, "inputs_per_minute": inputs_per_minute}
    client = Client(host, key_variable=key_variable, timeout=timeout, **rates)
    model = _read_metadata(client, path, version, input, output)
    if num_classes is not None and model.width not in (None, num_classes):
        raise UserError(f"the model at {url} has {model.width} columns, not {num_classes}; which one is meant?")
    names = checked_names(class_names, None if returns == "embedding" else num_classes or model.width)
    parts = [f"v2 {host}", f"model {model_name}", f"version {model.version or 'any'}", f"input {model.input}"]
    parts += [f"datatype {model.datatype or 'any'}", f"output {model.output or 'any'}", f"returns {returns}"]
    fingerprint = "; ".join([*parts, str(prepare)])

    def answer(inputs: Any) -> Answer:
        tensor = _tensor(model, inputs, prepare)
        body: dict[str, Any] = {"inputs": [tensor]}
        if model.output is not None:
            body["outputs"] = [{"name": model.output}]

        def outputs(reply: Any) -> dict[str, Tensor]:
            values = _read(reply, model, len(inputs), num_classes or (len(names) if names else None))
            return {"embedding" if returns == "embedding" else "logits": _as_logits(values, returns)}

        return metered(client.post(f"{path}/infer", body, inputs=len(inputs), holding=["outputs"]), outputs)

    def check(inputs: Any) -> None:
        _tensor(model, inputs, prepare)
        client.check()

    reads = READS.get(model.datatype or "any", "floats")
    name = name or f"{model_name}-{short(fingerprint)}"
    return RemoteTeacher(name, fingerprint, answer, check, max_batch, names, reads)


def _as_logits(values: Tensor, returns: Returns) -> Tensor:
    if returns != "probabilities":
        return values
    if bool(((values < -1e-4) | (values > 1 + 1e-4)).any()):
        raise BadAnswer("probabilities below 0 or above 1; does this model return logits?")
    return values.clamp(min=FLOOR).log()


def _read_metadata(client: Client, path: str, version: str | None, input: str | None, output: str | None) -> Model:
    try:
        metadata = client.get(path)
    except (NotCharged, BadAnswer, OSError) as error:
        raise UserError(f"the model's metadata cannot be read ({error}); is the address right?") from None
    try:
        inputs, outputs = ({str(t["name"]): t for t in metadata.get(kind) or ()} for kind in ("inputs", "outputs"))
        versions = [version] if version else list(map(str, metadata.get("versions") or ()))
        shapes = {id(t): tuple(map(int, t.get("shape") or ())) for t in (*inputs.values(), *outputs.values())}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{client.base_url} does not give a V2 model's metadata; is the address right?") from None
    source, target = _choose("input", input, inputs), _choose("output", output, outputs)
    datatype, shape = source.get("datatype"), shapes.get(id(source), ())
    if datatype not in (None, "BYTES", *NUMBERS):
        raise UserError(f"the model's input has datatype {datatype}; a pool's inputs cannot be sent as that.")
    width = (shapes.get(id(target)) or (-1,))[-1]
    return Model(
        input=source.get("name", input or "input-0"),
        output=target.get("name", output),
        datatype=datatype,
        shape=shape[1:] or None,
        width=width if width > 0 else None,
        version=versions[0] if len(versions) == 1 else None,
    )


def _choose(what: str, name: str | None, tensors: dict[str, Any]) -> dict[str, Any]:
    """The metadata of the tensor name, else of the only one; nothing where the server tells of none."""
    if not tensors:
        return {}
    if name is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    if name not in tensors:
        raise UserError(f"the model has the {what}s {', '.join(tensors)}; name one of them as {what}.")
    return tensors[name]


def _tensor(model: Model, inputs: Any, prepare: Scaled) -> dict[str, Any]:
    """A batch of a pool's inputs as a V2 tensor."""
    rows = model.shape
    if isinstance(inputs, list):
        shape = [len(inputs), *(1 for _ in rows or ())]
        return {"name": model.input, "shape": shape, "datatype": "BYTES", "data": inputs}
    datatype = model.datatype or "FP32"
    if inputs.dtype != torch.uint8 or datatype != "UINT8" or prepare.mean is not None:
        inputs = prepare(inputs)
    if datatype not in FLOATS and inputs.is_floating_point():
        raise NotCharged(f"the model takes {datatype}, not floating point", retry=False)
    if rows is not None and len(rows) == 1:
        inputs = inputs.flatten(1)
    if rows is not None and (
        len(rows) != inputs.ndim - 1
        or any(want not in (-1, have) for want, have in zip(rows, inputs.shape[1:], strict=True))
    ):
        raise NotCharged(f"the model takes rows of shape {rows}, not {tuple(inputs.shape[1:])}", retry=False)
    return {
        "name": model.input,
        "shape": list(inputs.shape),
        "datatype": datatype,
        "data": inputs.flatten().tolist(),
    }


def _read(answer: Any, model: Model, count: int, num_classes: int | None) -> Tensor:
    """The output (b, k) of an answer, as float32.

    Raises:
        BadAnswer: it is not there, not of one row an input and the declared width, or not made of numbers.
    """
    try:
        served = answer.get("model_version")
        outputs = [tensor for tensor in answer["outputs"] if model.output in (None, tensor["name"])]
        if len(outputs) != 1:
            raise BadAnswer(f"{len(outputs)} outputs, where {model.output or 'one'} was asked for")
        shape, datatype = [int(size) for size in outputs[0]["shape"]], outputs[0]["datatype"]
        values = torch.tensor(outputs[0]["data"], dtype=torch.float64).flatten() if datatype in FLOATS else None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise BadAnswer("the answer is not a V2 tensor of numbers") from None
    if served and model.version and str(served) != model.version:
        raise BadAnswer(f"version {served} answered, not {model.version}: the model was changed")
    if values is None:
        raise BadAnswer(f"an output of datatype {datatype}, not of floating point")
    width = num_classes or model.width
    if len(shape) != 2 or shape[0] != count or shape[1] < 1 or (width or shape[1]) != shape[1]:
        raise BadAnswer(f"an output of shape {shape}, not {[count, width or 'columns']}")
    if len(values) != math.prod(shape):
        raise BadAnswer(f"{len(values)} values for an output of shape {shape}")
    return values.view(shape).float()
