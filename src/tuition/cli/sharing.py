"""Commands that take a finished run elsewhere: export, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from tuition.cli.printer import Printer
from tuition.cli.runs import Name
from tuition.cli.signatures import takes
from tuition.pipeline.settings import TransferSettings

Folder = Annotated[Path, Argument(metavar="RUN", help="Folder of a finished run.")]


@takes(TransferSettings, "trust_code", files=False)
def export(
    printer: Printer,
    settings: TransferSettings,
    run: Name,
    out: Annotated[Path, Argument(help="ONNX file.")],
) -> None:
    """Export a finished student to ONNX, preprocessing included.

    Example: tuition export runs/digits student.onnx
    """
    from tuition import load

    path = load(run, trust_code=settings.ask.trust_code).export(out)
    printer.say(f"Wrote {path}.", path=path)


def push(
    printer: Printer,
    run: Folder,
    name: Annotated[str, Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face hub.")],
    private: Annotated[bool, Option("--private", metavar="", help="Make a private repository.")] = False,
    revision: Annotated[str | None, Option(help="Branch to send to; by default the main one.")] = None,
) -> None:
    """Send a finished run to the Hugging Face hub: card, weights, settings and figures, never checkpoints or stores.

    Paths in its settings are reduced to their last name. `tuition predict OWNER/NAME` then uses it.

    Example: tuition push runs/digits ada/digits --private
    """
    from tuition.pipeline.push import push as send

    sent = send(run, name, private=private, revision=revision)
    pinned = f"{name}@{sent.revision}"
    printer.say(
        f"{sent.url} holds {', '.join(sent.files)}; tuition.load({pinned!r}) gives the student back.",
        url=sent.url,
        revision=sent.revision,
        files=sent.files,
    )
    if sent.own_code:
        printer.say("The student is made by code of yours, which was not sent; others need it to load the student.")
