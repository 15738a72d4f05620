"""Commands that train: teach, distill."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from tuition import disk
from tuition.cli.options import (
    Budget,
    Calls,
    Config,
    Cost,
    Data,
    Epochs,
    Labels,
    Pictures,
    Seed,
    Sets,
    Store,
    Teacher,
    Texts,
    TokenCost,
    TrustCode,
    settings_of,
)
from tuition.cli.output import say
from tuition.cli.progress import counting, training
from tuition.cli.tables import print_run, say_further, say_refused

if TYPE_CHECKING:
    from tuition.data import Pool, TransferSet


def teach(
    out: Annotated[Path, Option(help="Folder for the teacher.")],
    config: Config = None,
    data: Data = None,
    model: Annotated[str | None, Option(help="Architecture (see `tuition models`).")] = None,
    examples: Annotated[int | None, Option(help="Train on so many examples only.")] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Train a teacher on labels by plain cross-entropy."""
    from tuition.pipeline import job
    from tuition.pipeline.settings import TeachSettings

    given: dict[str, Any] = {"data": data, "model": model, "examples": examples, "epochs": epochs, "seed": seed}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    given["trust_code"] = trust_code or None
    settings = settings_of(TeachSettings, config, given, sets)
    with training() as progress:
        run = job.teach(settings, out, progress)
    print_run(run, f"Teacher {settings.model} of {settings.data}")


def distill(
    out: Annotated[Path | None, Option(help="Folder for the run; by default named after it, in runs/.")] = None,
    config: Config = None,
    data: Data = None,
    teacher: Teacher = None,
    student: Annotated[str | None, Option(help="Architecture (see `tuition models`).")] = None,
    method: Annotated[str | None, Option(help="What it is trained by (see `tuition methods`).")] = None,
    calls: Calls = None,
    seed: Seed = None,
    store: Store = None,
    budget: Budget = None,
    epochs: Epochs = None,
    cost_per_call: Cost = None,
    cost_per_million_tokens: TokenCost = None,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Ask a teacher, train a student from its answers, evaluate it and write it down.

    `torchrun --nproc-per-node 2 -m tuition distill ...` shares the training between two processes.
    """
    from tuition.pipeline import job
    from tuition.pipeline.checks import preflight
    from tuition.pipeline.settings import DistillSettings, default_folder
    from tuition.pipeline.stand_in import STAND_IN, STAND_IN_EPOCHS, stand_in_folder, with_stand_in
    from tuition.training import parallel

    given: dict[str, Any] = {"data": data, "teacher": teacher, "student": student, "method": method, "calls": calls}
    given |= {"seed": seed, "store": store, "budget": budget, "epochs": epochs, "cost_per_call": cost_per_call}
    given |= {"cost_per_million_tokens": cost_per_million_tokens}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    given["trust_code"] = trust_code or None
    settings = settings_of(DistillSettings, config, given, sets)
    if settings.teacher is None:
        name, folder = STAND_IN, stand_in_folder(settings)
        say(f"No teacher is named, so a quick stand-in serves: {name}, {STAND_IN_EPOCHS} epochs, kept in {folder}.")
        with training() as progress:
            settings = with_stand_in(settings, progress)
    out = default_folder(settings) if out is None else out

    with contextlib.ExitStack() as held:  # the folder, from before a call is paid

        def asked() -> tuple[TransferSet, Pool | TransferSet]:
            known = preflight(settings, out)
            held.enter_context(disk.hold(out))
            with counting("calls") as advance:
                transfer, validation = job.ask(settings, known, advance)
            say_refused(transfer, validation, settings.store)
            say_further(validation)
            megabytes = job.maps_megabytes(settings, known, transfer)
            if megabytes:
                say(f"The teacher's feature maps, recomputed without calls, take {megabytes:,.1f} MB.")
            return job.complete(settings, known, transfer), validation

        transfer, validation = parallel.first(asked)
        with training() as progress:
            run = job.train_student(settings, transfer, validation, out, progress)
        print_run(
            run,
            f"Student {settings.student} of {settings.data} by {settings.method}",
            priced=settings.price is not None,
        )
