"""TensorBoard logs of a run."""

from __future__ import annotations

from tuition.errors import UserError
from tuition.training.loop import Progress


def logged(directory: str, progress: Progress | None = None) -> Progress:
    """A progress callback that writes every epoch's figures to `directory`, and then calls `progress`.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("writing to log_dir needs an extra: pip install 'tuition[tensorboard]'.") from None
    writer = SummaryWriter(directory)

    def log(done: int, total: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            if name != "epoch":
                writer.add_scalar(name, value, done)
        writer.flush()
        if progress is not None:
            progress(done, total, figures)

    return log
