"""ONNX graphs as teachers, run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuition.errors import UserError, first_line, needs_extra
from tuition.teachers.fingerprint import short
from tuition.teachers.function import CallableTeacher
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.protocol import NotCharged, Reads
from tuition.teachers.pytorch import scaled

READS: dict[str, Reads] = {"tensor(string)": "texts", "tensor(uint8)": "bytes"}
FLOATS = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}


def from_onnx(
    path: str | Path,
    *,
    output: str = "logits",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
) -> CallableTeacher:
    """A teacher from an ONNX file with one input (`pip install 'tuition[onnx]'`), such as `Student.export` writes.

    A graph of bytes reads uint8 images (b, c, h, w) as they are; one of floats reads them as floats in [0, 1], and
    float vectors (b, d) as they are, then (x - mean) / std if these are set; one of strings reads texts, as (b,)
    or (b, 1). A graph of a fixed batch size is run as often as needed, its last batch filled up with blank inputs.

    It answers {output: float32 (b, ...)}, with as many threads as PyTorch uses. The fingerprint is the digest of the
    file, and of the files of weights it names, with the preprocessing and the output.

    Args:
        path: the file.
        output: "logits" or "embedding": the graph's output of this name, or else its only one.
        mean: one value a channel, for inputs in [0, 1].
        std: likewise.
        name: what people call it; by default the file's stem and eight digits of the fingerprint.
        class_names: one name a class, in the order of the logits; by default those in the file's metadata, where
            `Student.export` writes them.

    Raises:
        UserError: ONNX Runtime is missing, the file is missing or not an ONNX graph, its inputs and outputs are not
            those named above, or the class names are empty, repeated or of another number.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise needs_extra("a teacher of ONNX", "onnx", error) from error
    path, prepare = Path(path), scaled(mean, std)
    if not path.is_file():
        raise UserError(f"{path} was not found; name an ONNX file.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    usable = onnxruntime.get_available_providers()
    providers = [it for it in ("CUDAExecutionProvider", "CPUExecutionProvider") if it in usable]
    try:
        proto = onnx.load(path, load_external_data=False)
        graph = proto.graph
        weights = [_inside(path.parent, file) for file in sorted(set(_files(graph)))]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        digest = _digest([path, *weights])
    except Exception as error:  # of protobuf, of the runtime's own kinds, or of the disk
        raise UserError(f"{path} cannot be read as an ONNX graph ({first_line(error)}); export it again.") from error
    inputs, outputs = session.get_inputs(), [it.name for it in session.get_outputs()]
    if len(inputs) != 1 or inputs[0].type not in (*FLOATS, "tensor(uint8)", "tensor(string)"):
        kinds = ", ".join(f"{it.name}: {it.type}" for it in inputs)
        raise UserError(f"{path} reads {kinds}; only one input of bytes, floats or strings can be read.")
    if output not in outputs and len(outputs) != 1:
        raise UserError(f"{path} has the outputs {', '.join(outputs)}, none of them {output}; name one of these.")
    source, target = inputs[0], output if output in outputs else outputs[0]

    def answer(raw: Any) -> dict[str, Tensor]:
        rows = _fit(raw, source.type, source.shape, prepare)
        try:
            parts = [session.run([target], {source.name: part})[0] for part in _batches(rows, source.shape)]
        except Exception as error:  # known fate: no answer, and nothing to pay for
            raise NotCharged(f"the graph failed with {type(error).__name__}: {error}", retry=False) from error
        return {output: torch.from_numpy(np.concatenate(parts)[: len(rows)]).float()}

    fingerprint = f"onnx {digest}; output {output}; {prepare}"
    width = session.get_outputs()[outputs.index(target)].shape[-1:]
    count = width[0] if output == "logits" and width and isinstance(width[0], int) else None
    names = checked_names(_names(proto) if class_names is None else class_names, count)
    name = name or f"{path.stem}-{short(fingerprint)}"
    return CallableTeacher(answer, fingerprint, name, True, names, READS.get(source.type, "floats"))


def _names(proto: Any) -> list[str] | None:
    """The class names that `Student.export` writes into the metadata; None where it has none."""
    written = [entry.value for entry in proto.metadata_props if entry.key == "class_names"]
    try:
        names = json.loads(written[0]) if written else None
    except ValueError:  # another tool's metadata
        return None
    return names if isinstance(names, list) and all(isinstance(it, str) for it in names) else None


def _fit(raw: Any, kind: str, shape: Sequence[int | str | None], prepare: Any) -> np.ndarray:
    """The raw inputs as the graph declares its own."""
    if kind == "tensor(string)":
        rows = np.array(raw, dtype=object).reshape((-1, 1) if len(shape) == 2 else -1)
    elif kind == "tensor(uint8)":
        rows = raw.cpu().numpy()
    else:
        rows = prepare(raw).to(FLOATS[kind]).cpu().numpy()
    fits = len(shape) == rows.ndim and all(
        not isinstance(side, int) or side == of for side, of in zip(shape[1:], rows.shape[1:], strict=True)
    )
    if shape and not fits:
        raise NotCharged(f"the graph reads inputs of shape {list(shape)}, not {list(rows.shape)}", retry=False)
    return rows


def _batches(rows: np.ndarray, shape: Sequence[int | str | None]) -> Iterator[np.ndarray]:
    size = shape[0] if shape and isinstance(shape[0], int) else len(rows)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        blank = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
        yield np.concatenate([part, blank]) if len(blank) else part


def _files(graph: Any) -> Iterator[str]:
    """Files beside the graph's own that hold its weights."""
    tensors = [*graph.initializer]
    for sparse in graph.sparse_initializer:
        tensors += [sparse.values, sparse.indices]
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                yield from _files(inner)
    for tensor in tensors:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _inside(folder: Path, file: str) -> Path:
    """A file of weights that a graph names, which lies in the graph's own folder.

    Raises:
        ValueError: it lies elsewhere.
    """
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ValueError(f"it names weights outside of its folder, {file[:100]}")
    return folder / file


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
