"""A student as an ONNX file, compared with the student before it is written."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tuition import disk, models
from tuition.errors import UserError, first_line, needs_extra
from tuition.training.raw_inputs import RESIZE_FILTER

if TYPE_CHECKING:
    from tuition.training.student import Student

PRODUCER = "tuition"


def export(student: Student, path: Path) -> Path:
    """See `Student.export`."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise needs_extra("exporting to ONNX", "onnx", error) from error
    disk.check_new(path, _ours)
    disk.check_writable(path.parent)
    training = student.training
    try:
        proto = _translated(student.cpu().eval())
        about: dict[str, Any] = {"class_names": student.class_names, "input_shape": student.input_shape}
        if len(student.input_shape) == 3:
            size = student.image_size or student.input_shape[1:]
            about |= {"value_range": [0, 255], "image_size": size, "resize_filter": RESIZE_FILTER}
        if isinstance(student.preprocess, models.Hashing):
            about["hashing"] = student.preprocess.settings()
        if isinstance(student.preprocess, models.Tokenizer):
            about["tokenizer"] = student.preprocess.settings()
        onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in about.items()})
        proto.producer_name, proto.producer_version = PRODUCER, metadata.version("tuition")
        content = proto.SerializeToString()
        try:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            _compare(student, session)
        except UserError:
            raise
        except Exception as error:  # of the runtime: operators or sizes that it does not take
            raise UserError(
                f"the exported student does not run ({first_line(error)}); change its forward pass."
            ) from error
    finally:
        student.train(training)
    if isinstance(student.preprocess, models.TextReader):
        for name, file in student.preprocess.files().items():
            disk.write_new(path.with_name(name), file)
    disk.write(path, content)
    return path


def _translated(student: Student) -> Any:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # it warns of libraries that are not needed, and describes what it cannot follow
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            program = torch.onnx.export(
                student,
                (student.example(),),
                input_names=["token_ids" if student.reads_text else "inputs"],
                output_names=[student.output],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            return program.model_proto
    except Exception as error:  # whatever torch.export cannot follow in the model's own code
        raise UserError(
            f"the student cannot be exported ({_why(error)}); its forward pass must use tensors alone, without "
            "branches on their values."
        ) from error
    finally:
        logging.disable(before)


def _why(error: BaseException) -> str:
    """What was wrong first: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _compare(student: Student, session: Any) -> None:
    """Refuse a file whose answers differ from the student's, because a branch or a value was fixed in it."""
    for rows in (1, 3):
        inputs = _random(student, rows)
        (answers,) = session.run([student.output], {session.get_inputs()[0].name: inputs.numpy()})
        with torch.no_grad():
            expected = student(inputs).numpy()
        if answers.shape != expected.shape or not np.allclose(answers, expected, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise UserError(
                "the answers of the exported student differ from the student's; its forward pass must use tensors "
                "alone, without branches and numbers taken from them."
            )


def _random(student: Student, rows: int) -> Tensor:
    """Raw inputs (rows, *input_shape)."""
    generator = torch.Generator().manual_seed(rows)
    shape = (rows, *student.input_shape)
    if student.example().dtype == torch.float32:
        return torch.randn(shape, generator=generator)
    high = 10 if student.reads_text else 256
    return torch.randint(high, shape, generator=generator).to(student.example().dtype)


def _ours(path: Path) -> bool:
    """Whether a file is a student that was exported before."""
    import onnx

    try:
        return str(onnx.load(str(path), load_external_data=False).producer_name) == PRODUCER
    except Exception:  # of protobuf: not a model
        return False
