"""Measure the source: lines of code, the longest function and file, and isinstance calls a room.

    python tools/measure.py [FOLDER] [--check]

A line of code is neither blank nor part of a comment or a docstring. With --check the exit code is 1 where a function
has more than 60 lines of code or a file more than 400 lines.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

LONGEST_FUNCTION, LONGEST_FILE = 60, 400
CORE = ("losses", "models", "data", "teachers", "store", "training", "pipeline")
LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Measured:
    """One file: its room, its lines, its lines of code, its functions by length, its isinstance calls."""

    room: str
    path: str
    lines: int
    code: int
    functions: list[tuple[int, str]]
    isinstance_calls: int


def measure(path: Path, root: Path) -> Measured:
    source = path.read_text()
    tree = ast.parse(source)
    inside = path.relative_to(root)
    nodes = list(ast.walk(tree))
    docstrings = {
        line
        for node in nodes
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in LAYOUT
        for line in range(token.start[0], token.end[0] + 1)
    }
    code -= docstrings
    functions = [
        (len(code & set(range(node.lineno, (node.end_lineno or 0) + 1))), f"{inside}:{node.name}")
        for node in nodes
        if isinstance(node, FUNCTIONS)
    ]
    calls = sum(isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" for node in nodes)
    room = inside.parts[0] if len(inside.parts) > 1 else "(root)"
    return Measured(room, str(inside), len(source.splitlines()), len(code), functions, calls)


def table(files: list[Measured]) -> str:
    """Markdown: a row a room, then the core and everything."""
    rooms = sorted({file.room for file in files})
    groups = [(room, [file for file in files if file.room == room]) for room in rooms]
    groups += [("core", [file for file in files if file.room in CORE]), ("all", files)]
    rows = ["| room | lines of code | longest function | longest file | isinstance |", "|---|---|---|---|---|"]
    for name, group in groups:
        length, function = max((found for file in group for found in file.functions), default=(0, "-"))
        longest = max(group, key=lambda file: file.lines)
        code, calls = sum(file.code for file in group), sum(file.isinstance_calls for file in group)
        rows.append(f"| {name} | {code:,} | {length} {function} | {longest.lines} {longest.path} | {calls} |")
    return "\n".join(rows)


def too_long(files: list[Measured]) -> list[str]:
    functions = [found for file in files for found in file.functions if found[0] > LONGEST_FUNCTION]
    return [f"{name} has {length} lines of code" for length, name in functions] + [
        f"{file.path} has {file.lines} lines" for file in files if file.lines > LONGEST_FILE
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1] / "src" / "tuition")
    parser.add_argument("--check", action="store_true", help="fail where a function or a file is too long")
    arguments = parser.parse_args()
    files = [measure(path, arguments.folder) for path in sorted(arguments.folder.rglob("*.py"))]
    print(table(files))
    problems = too_long(files)
    for problem in problems:
        print(f"too long: {problem}")
    return 1 if problems and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
