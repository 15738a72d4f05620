"""The templates of the report: a page, and tables in Markdown and LaTeX.

Every value is escaped for its medium where it is printed; text that is markup already is marked as `Markup`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tuition import escape

LOADER = PackageLoader("tuition.studies")


def _unless_markup(escaped: Any, value: object) -> Markup:
    return value if isinstance(value, Markup) else Markup(escaped(value))


FINALIZE = {".html": escape.page, ".md": escape.markdown, ".tex": escape.latex}


def render(name: str, **values: Any) -> str:
    """The text of a template with these values."""
    environment = Environment(
        loader=LOADER,
        autoescape=True,
        finalize=partial(_unless_markup, FINALIZE[Path(name).suffix]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template(name).render(values)


def source(name: str) -> Markup:
    """A style sheet or a script as it stands."""
    text, *_ = LOADER.get_source(Environment(), name)
    return Markup(text)
