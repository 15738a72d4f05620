"""What the pages of a report have in common: their policy, and figures as part of them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup

from tuition import disk
from tuition.studies import figures

GENERATOR = '<meta name="generator" content="tuition">'  # by which a page of ours is known
PAGE = "report.html"
THEMED = {figures.INK: "ink", figures.MUTED: "muted", figures.PAPER: "paper", figures.BLUE: "blue"}


def check_ours(out: Path, signs: Iterable[str]) -> None:
    """Refuse a folder of other things: one that holds neither a page of ours nor one of `signs`.

    Raises:
        UserError: it does not.
    """
    if not (out / PAGE).is_file() or GENERATOR not in (out / PAGE).read_text(encoding="utf-8", errors="replace"):
        disk.check_ours(out, tuple(signs), "a report")


def policy(script: str, styles: Iterable[str], pictures: bool = False) -> str:
    """The page's Content-Security-Policy: nothing is fetched, and only this script and these styles count.

    Args:
        pictures: whether it holds pictures of its own, as data URLs.
    """

    def digests(bodies: Iterable[str]) -> str:
        each = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in dict.fromkeys(bodies))
        return " ".join(f"'sha256-{digest}'" for digest in each)

    return (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; script-src {digests([script])}; "
        f"style-src-elem {digests(styles)}; style-src-attr 'unsafe-inline'" + ("; img-src data:" if pictures else "")
    )


def styles(pictures: Iterable[str]) -> list[str]:
    """The style sheets inside SVG pictures."""
    return [body for svg in pictures for body in re.findall(r"<style[^>]*>(.*?)</style>", svg, re.DOTALL)]


def inline(path: Path) -> Markup:
    """A figure (a file without its suffix) as SVG that follows the page's theme and width."""
    svg = path.with_name(path.name + ".svg").read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    root, rest = svg.split(">", 1)
    svg = re.sub(r' (width|height)="[^"]*"', "", root) + ' role="img">' + rest
    for colour, name in THEMED.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)


def data_url(picture: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
