"""Text from outside, made harmless for output: one function a medium, called where the text is printed."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

from tuition.errors import without_passwords

LONGEST = 300  # characters of a message or of a value that are shown or stored

# Control characters (C0, C1), marks that reverse the direction of text, separators of lines, lone surrogates, tags.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?|[+-]?(inf|nan)")
_ADDRESS = re.compile(r"(\w[\w+.-]*://)(?:[^\s,]*@)?([^\s?#,]*)(?:[?#][^\s,]*)?")
# A text that is an absolute path, perhaps after a kind, as in onnx:/a/b or sqlite:////a/b.
_ABSOLUTE = re.compile(r"^(\s*(?:\w{2,}:(?:///?(?=/))?)?)((?:/(?![/\s]|$)|~|\\|[A-Za-z]:[/\\]).*)$")
_PATH = re.compile(r"(?<![\w.:/\\~-])(?:~\w*|[A-Za-z]:)?(?:[/\\][^\s/\\,;:'\"()<>]+){2,}[/\\]?")  # inside of a text
_SECRET = re.compile(
    r"(?:^|[_-])(?:api_?key|key|secret|password|passwd|authorization|credentials?|cookie)s?$"
    r"|(?:^|(?:api|access|auth|bearer|hf)[_-])token$",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(r"([\\`*_|~$]|\](?=[(\[:]))")
_TEX = {"\\": "\\textbackslash{}", "→": "$\\rightarrow$", "≤": "$\\le$", "²": "$^2$", "^": "\\^{}"}
_TEX |= {"~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}"}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def shorten(text: object, longest: int = LONGEST) -> str:
    """At most `longest` characters: the start and the end, as the end of an error says what it is."""
    words = str(text)
    if len(words) <= longest:
        return words
    head = (longest - 5) // 3
    return f"{words[:head]} ... {words[len(words) - (longest - 5 - head) :]}"


def visible(text: object, keep: str = "") -> str:
    r"""The text with control characters written out, as \x1b, but for those in `keep`."""
    return _CONTROLS.sub(lambda match: match[0] if match[0] in keep else _written(match[0]), str(text))


def line(text: object) -> str:
    """For one line of a terminal or of a log."""
    return visible(" ".join(without_passwords(str(text)).splitlines()))


def cell(value: object) -> object:
    """For a cell of a CSV file, which a spreadsheet must not take for a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = visible(without_passwords(value), keep="\n\t")
    return f"'{text}" if _FORMULA.match(text.lstrip("'")) and not _NUMBER.fullmatch(text) else text


def uncell(text: str) -> str:
    """What `cell` was given, as far as a spreadsheet's mark is concerned."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text.lstrip("'")) else text


def page(text: object) -> str:
    """For the text of a page, and for its attributes in quotes."""
    return html.escape(visible(without_passwords(str(text)), keep="\n\t"))


def markdown(text: object) -> str:
    """For a cell of a Markdown table."""
    return html.escape(_MARKDOWN.sub(r"\\\1", line(text)), quote=False)


def latex(text: object) -> str:
    """For the text of a LaTeX document."""
    return "".join(_TEX.get(character, character) for character in line(text))


def public(value: Any) -> Any:
    """A setting as strangers may read it: of absolute paths the last name, of addresses neither user nor query.

    In mappings and lists too; a text under a name such as "api_key" becomes "***".
    """
    if isinstance(value, Mapping):
        return {key: "***" if _secret(key, below) else public(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(below) for below in value]
    if not isinstance(value, str):
        return value
    text = _ADDRESS.sub(r"\1\2", value)
    if "\n" not in text:  # names and paths, with blanks perhaps
        text = ",".join(
            _ABSOLUTE.sub(lambda m: (m[1] or "") + PureWindowsPath(m[2]).name, part) for part in text.split(",")
        )
    return _PATH.sub(lambda m: PureWindowsPath(m[0]).name, text)


def _secret(key: object, value: object) -> bool:
    return isinstance(value, str) and bool(value) and bool(_SECRET.search(str(key)))


def _written(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
