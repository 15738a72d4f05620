"""Find words that readers stumble over, in code, messages, tests and documents.

    python tools/words.py [PATH ...]

Prints file, line, the words and what to write instead; the exit code is 1 where there are any.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EVERYWHERE = ("src", "tests", "benchmarks", "examples", "tools", "docs", "README.md", "CONTRIBUTING.md", "SECURITY.md")
KINDS = {".py", ".md", ".yaml", ".html", ".ipynb", ".toml"}
INSTEAD = {
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bset right\b": "fix",
    r"\banew\b": "again",
    r"\bmade again\b": "rerun, again",
    r"(?<!there )\b(is|are|was|were) no (?!longer|more|less|other|fewer|better|worse|for)\w": "is not a",
    r"\bno \w+ of (that|this) name\b": "was not found",
    r"\bgone on with\b": "resumed",
    r"\b(can|could|may|to) be had\b": "is available",
    r"\bto be (said|expected|seen to)\b": "the message, expected",
    r"\bof equals\b": "ties",
    r"\bat hand\b": "available",
    r"\bcomes? by\b": "obtain",
    r"\bfor good\b": "permanently",
    r"\bsee to it\b": "make sure",
    r"\bstood for\b": "counted",
    r"\bin the place of\b": "instead of",
    r"\bbeside (that|this)\b": "besides",
    r"\b(this|that|it) serves\b(?! (a|an|the)\b)": "works, is used",
    r"\bso many\b": "up to N",
    r"(?<!twice )(?<!third )(?<!fourth )\bas many\b(?!( \w+)? as\b)": "the number of",
    r"[,;] for (it|they|he|we|there|this|that|these|those|such|nobody|what|which|the \w+ (is|has))\b": "because",
    r"\bthat is to say\b": "(leave out)",
    r"\bwhereof\b|\bthereof\b|\bwherein\b|^(?!.*\bneither\b).*\bnor a\b": "(plain words)",
}
WORDS = [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in INSTEAD.items()]


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:]] or [ROOT / name for name in EVERYWHERE]
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    count = 0
    for file in files:
        if file.suffix not in KINDS or file.resolve() == Path(__file__).resolve():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            for pattern, instead in WORDS:
                for match in pattern.finditer(line):
                    count += 1
                    print(f"{file}:{number}: {match[0]!r}: write {instead!r}")
    print(f"{count} to rewrite")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
