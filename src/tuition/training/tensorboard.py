"""TensorBoard logs of a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from tuition.errors import Notice, first_line, needs_extra
from tuition.training import files
from tuition.training.loop import Progress


def check(directory: str) -> None:
    """Find out whether logs can be written to `directory`; nothing is left there.

    Raises:
        UserError: TensorBoard is not installed, or the folder cannot be written to.
    """
    _writer()
    files.check_writable(Path(directory))


def logged(directory: str, progress: Progress | None = None) -> Progress:
    """A progress callback that writes every epoch's figures to `directory`, and then calls `progress`.

    An error in writing ends the log with a warning, and the training continues.

    Raises:
        UserError: TensorBoard is not installed, or the folder cannot be written to.
    """
    check(directory)
    writer: Any = _writer()(directory)

    def log(done: int, total: int, figures: dict[str, float]) -> None:
        nonlocal writer
        try:
            if writer is not None:
                _write(writer, done, figures)
        except Exception as error:  # of the library, its thread or the disk
            writer = None
            warnings.warn(
                f"the log in {directory} ends here ({first_line(error)}); the run continues.", Notice, stacklevel=2
            )
        if progress is not None:
            progress(done, total, figures)

    return log


def _write(writer: Any, done: int, figures: dict[str, float]) -> None:
    for name, value in figures.items():
        if name != "epoch":
            writer.add_scalar(name, value, done)
    writer.flush()


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise needs_extra("writing to log_dir", "tensorboard", error) from error
    return SummaryWriter
