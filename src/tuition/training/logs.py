"""Logs of a run for the tools that draw them: TensorBoard and Weights & Biases."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from numbers import Number
from pathlib import Path
from typing import Any

from tuition.errors import Notice, UserError, first_line, needs_extra
from tuition.training import files
from tuition.training.callbacks import Callback
from tuition.training.run import Run


class Log(Callback, ABC):
    """Figures of every epoch and round. An error in writing ends the log with a warning; the training continues.

    Epochs are counted on, where another round begins with its first.
    """

    place: str  # where the log is, in words

    def __init__(self) -> None:
        self._ended = False
        self._before = self._last = 0  # epochs of earlier rounds, and the last one of this round

    @abstractmethod
    def write(self, figures: Mapping[str, float], axis: str, step: int) -> None:
        """Write figures by name, at a step of an axis: "epoch" or "round"."""

    @abstractmethod
    def close(self, results: Mapping[str, float]) -> None:
        """Write the results of the run, and end the log."""

    def on_epoch(self, row: Mapping[str, float]) -> None:
        epoch = int(row["epoch"])
        self._before += self._last if epoch <= self._last else 0
        self._last = epoch
        figures = {name: value for name, value in _numbers(row).items() if name != "epoch"}
        self._try(lambda: self.write(figures, "epoch", self._before + epoch))

    def on_round(self, row: Mapping[str, Any]) -> None:
        figures = {f"round/{name}": value for name, value in _numbers(row).items() if name != "round"}
        self._try(lambda: self.write(figures, "round", int(row["round"])))

    def on_end(self, run: Run) -> None:
        self._try(lambda: self.close(_numbers(run.results())))

    def _try(self, write: Callable[[], None]) -> None:
        if self._ended:
            return
        try:
            write()
        except Exception as error:  # of the library, its thread, the disk or the network
            self._ended = True
            warnings.warn(
                f"the log in {self.place} ends here ({first_line(error)}); the run continues.", Notice, stacklevel=4
            )


class TensorBoard(Log):
    """Writes to a folder, which `tensorboard --logdir` reads.

    Raises:
        UserError: TensorBoard is not installed, or the folder cannot be written to.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.check(directory)
        self.place, self._writer = directory, _summary_writer()(directory)

    @staticmethod
    def check(directory: str) -> None:
        """Find out whether logs can be written to `directory`; nothing is left there.

        Raises:
            UserError: as above.
        """
        _summary_writer()
        files.check_writable(Path(directory))

    def write(self, figures: Mapping[str, float], axis: str, step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, results: Mapping[str, float]) -> None:
        self.write({f"result/{name}": value for name, value in results.items()}, "epoch", self._before + self._last)
        self._writer.close()


class WeightsAndBiases(Log):
    """Writes to a project of Weights & Biases, as the environment configures it: WANDB_MODE=offline writes to ./wandb.

    Args:
        name: of the run.
        config: the settings to show with it; the caller leaves out what others may not read.
    """

    def __init__(self, project: str, name: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.place, self._begin = f"the project {project}", lambda: _begun(project, name, config)
        self._run: Any = None  # begins with the first figures

    @staticmethod
    def check() -> None:
        """Find out whether there is a key to log in with, where one is needed.

        Raises:
            UserError: there is none, or wandb is not installed.
        """
        wandb = _wandb()
        if wandb.setup().settings.mode != "online":
            return
        try:
            wandb.login()
        except wandb.errors.UsageError as error:
            raise UserError(
                f"wandb_project needs a login ({first_line(error)}); run `wandb login`, or set WANDB_MODE=offline."
            ) from error

    def write(self, figures: Mapping[str, float], axis: str, step: int) -> None:
        self._run = self._run or self._begin()
        self._run.log({**figures, axis: step})

    def close(self, results: Mapping[str, float]) -> None:
        self._run = self._run or self._begin()
        self._run.summary.update(results)
        self._run.finish()


def _begun(project: str, name: str, config: Mapping[str, Any]) -> Any:
    """A run of wandb, beside any other of this process; its output and its code stay here."""
    wandb = _wandb()
    quiet = wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True)
    run = wandb.init(project=project, name=name, config=dict(config), reinit="create_new", settings=quiet)
    run.define_metric("*", step_metric="epoch")
    run.define_metric("round/*", step_metric="round")
    return run


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if isinstance(value, Number)}  # type: ignore[arg-type]


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise needs_extra("writing to log_dir", "tensorboard", error) from error
    return SummaryWriter


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise needs_extra("writing to wandb_project", "wandb", error) from error
    return wandb
