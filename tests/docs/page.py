"""Runs the code of a page in order, in the current folder, as someone would who types it.

    python page.py PAGE.md OUTPUT_FOLDER

Python blocks share one namespace, bash blocks run in bash. What the block of line n prints is in OUTPUT_FOLDER/n.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^( *)```([^\n`]+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')


class Block(NamedTuple):
    """A block of a page: its language, its title, its lines, and the number of the first."""

    language: str
    title: str
    code: str
    line: int


def blocks(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        title = TITLE.search(match[2])
        code = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Block(match[2].split()[0], title[1] if title else "", code, line))
    return found


def run(page: Path, outputs: Path) -> None:
    parts = blocks(page.read_text(encoding="utf-8"))
    # Every Python line stands in this file where it stands on the page, for tracebacks and `inspect.getsource`.
    script, lines = Path("page.py").resolve(), [""] * (page.read_text(encoding="utf-8").count("\n") + 1)
    for block in parts:
        if block.language == "python" and not block.title:
            code = block.code.splitlines()
            lines[block.line - 1 : block.line - 1 + len(code)] = code
    script.write_text("\n".join(lines))
    main = types.ModuleType("__main__")
    main.__file__ = str(script)
    sys.modules["__main__"] = main
    sys.path[0] = str(script.parent)
    terminal = os.dup(1)
    for block in parts:
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.code, encoding="utf-8")
        elif block.language in ("python", "bash"):
            with open(outputs / str(block.line), "wb") as output:
                os.dup2(output.fileno(), 1)
                if block.language == "python":
                    exec(compile("\n" * (block.line - 1) + block.code, script, "exec"), vars(main))
                    sys.stdout.flush()
                else:
                    subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], check=True)
                os.dup2(terminal, 1)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
