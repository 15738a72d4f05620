"""The logs that settings name."""

from __future__ import annotations

from tuition import escape
from tuition.pipeline.settings import DistillSettings, default_folder
from tuition.training import Callback
from tuition.training.logs import TensorBoard, WeightsAndBiases


def check(settings: DistillSettings) -> None:
    """Refuse logs that cannot be written, before a call is paid.

    Raises:
        UserError: a package is not installed, a folder cannot be written to, or nobody is logged in.
    """
    if settings.log_dir is not None:
        TensorBoard.check(settings.log_dir)
    if settings.wandb_project is not None:
        WeightsAndBiases.check()


def begin(settings: DistillSettings) -> list[Callback]:
    """The callbacks that write these logs."""
    begun: list[Callback] = []
    if settings.log_dir is not None:
        begun.append(TensorBoard(settings.log_dir))
    if settings.wandb_project is not None:
        config = escape.public(settings.flat(free=False))
        begun.append(WeightsAndBiases(settings.wandb_project, default_folder(settings).name, config))
    return begun
