"""What the site takes from the code: pages on every command, setting, method, model and table of the store.

Further pages come from files elsewhere in the repository: the changelog, the published results, and the examples. Links
are written as they lead from file to file in the repository, and are turned here to lead from page to page.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Files of the repository that are part of the site, at the same path; an example becomes a page.
PUBLISHED = ("CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "results/**/*", "examples/*.py", "examples/*.ipynb")
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(path for pattern in PUBLISHED for path in ROOT.glob(pattern) if path.is_file()):
        where = path.relative_to(ROOT).as_posix()
        if path.suffix in EXAMPLES:
            files.append(File.generated(config, _page_of(where), content=EXAMPLES[path.suffix](path)))
        else:
            files.append(File.generated(config, where, abs_src_path=str(path)))
    for name, page in REFERENCE.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository, as links between pages."""
    markdown = markdown.replace("<!-- store tables -->", _store_tables()) if "<!-- store" in markdown else markdown
    if page.file.src_uri.startswith("reference/") and page.file.src_uri.removeprefix("reference/")[:-3] in REFERENCE:
        return markdown
    here = posixpath.dirname(_place_of(page.file.src_uri))

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, match[2]))
        inside = _page_of(target.removeprefix("docs/"))
        relative = posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{relative}{match[3] or ''}{match[4]}"

    return LINK.sub(turned, markdown)


def _place_of(page: str) -> str:
    """Where the source of a page stands in the repository."""
    return page if (ROOT / page).exists() or page.startswith("examples/") else f"docs/{page}"


def _page_of(place: str) -> str:
    """The page of a published file, both below the root of the site."""
    return re.sub(r"^examples/(\w+)\.(py|ipynb)$", r"examples/\1.md", place)


def _example(path: Path) -> str:
    source = path.read_text(encoding="utf-8")
    about = ast.get_docstring(ast.parse(source)) or ""
    title, code = about.split("\n")[0].rstrip("."), source.split('"""', 2)[2].lstrip()
    rest = about.partition("\n")[2]
    return f"# {path.stem}\n\n{title}.\n{rest}\n\n```python title={path.name!r}\n{code}```\n"


def _notebook(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in shown]
    return "\n\n".join(parts) + "\n"


EXAMPLES: dict[str, Callable[[Path], str]] = {".py": _example, ".ipynb": _notebook}

# -- the command line -------------------------------------------------------------------------------------------------


def _commands() -> str:
    import typer

    from tuition.cli.main import app

    tool: Any = typer.main.get_command(app)
    parts = [
        "# Commands",
        "This page is made from the command line itself. `tuition COMMAND --help` prints the same, and "
        "[Settings](settings.md) lists what `--set NAME=VALUE` takes beyond these options.",
        tool.epilog.replace("Exit codes:", "[Exit codes](exit-codes.md):"),
    ]
    for name, command in _leaves(tool):
        parts.append(_command(f"tuition {name}", command))
    return "\n\n".join(parts) + "\n"


def _leaves(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _command(name: str, command: Any) -> str:
    text, _, example = (command.help or "").partition("Example:")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([name, *map(_placeholder, arguments), *["[OPTIONS]"] * bool(options)])
    lines = [f"## {name}", _prose(text), "```text", usage, "```"]
    if example:
        lines += ["Example:", "", "```text", example.strip(), "```"]
    rows = [(f"`{_placeholder(p)}`", p.help or "") for p in arguments]
    rows += [(_option(p), f"{p.help or ''}{_default(p)}") for p in options]
    lines += ["", *_table(("option", "meaning"), rows)]
    return "\n".join([lines[0], "", lines[1], "", *lines[2:]])


def _placeholder(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name = f"{name}..." if argument.nargs != 1 else name
    return name if argument.required else f"[{name}]"


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    value = "" if parameter.is_flag or parameter.metavar == "" else parameter.metavar or parameter.name.upper()
    return f"{names} {value}".strip()


def _default(parameter: Any) -> str:
    default = parameter.default
    if default is None or default is False or default == [] or callable(default) or parameter.required:
        return ""
    return f" Default: {getattr(default, 'value', default)}."


# -- settings, methods, models, tables --------------------------------------------------------------------------------


def _settings() -> str:
    from tuition.cli.signatures import PANELS
    from tuition.pipeline.settings import COMMANDS, fields

    taking: dict[str, list[str]] = {}
    infos = {}
    for model in COMMANDS:
        for info in fields(model):
            taking.setdefault(info.name, []).append(model.command)
            infos.setdefault(info.name, info)
    parts = [
        "# Settings",
        "This page is made from the models that check the settings. Each can be an option of the command line where "
        "[Commands](commands.md) lists one, `--set NAME=VALUE` everywhere, a line of the YAML file of `--config`, and "
        "the settings of training are keyword arguments of `distill` in Python. `check` takes those of `ask`, and "
        "`study` those of `distill`. A run writes all of them to its `config.yaml`.",
    ]
    for title in dict.fromkeys(PANELS.values()):
        rows = [
            (f"`{i.name}`", _shown(i.default), ", ".join(filter(None, [i.type, i.unit])), i.description, ", ".join(c))
            for i, c in ((i, taking[i.name]) for i in infos.values())
            if PANELS[i.group] == title
        ]
        parts += [f"## {title}", "\n".join(_table(("setting", "default", "type", "meaning", "commands"), rows))]
    return "\n\n".join(parts) + "\n"


def _methods() -> str:
    from tuition import models
    from tuition.training import methods

    parts = [
        "# Methods and models",
        "Name a method with `--method NAME` or `distill(..., objective=NAME)`; set its options with "
        "`--set options.NAME=VALUE` or `options={...}`. [Choosing a method](../choosing.md) says what the measurements "
        "say about them, and [Your own method](../guides/own-method.md) how to add one. Without labels, the terms on "
        "labels fall away. The layers of white-box methods are `--set 'options={pairs: {stage2: stage2}}'`, "
        "student: teacher, with defaults for models of the zoo.",
        "\n".join(_table(("method", "what it is"), [(f"[`{n}`](#{n})", methods.summary(n)) for n in methods.METHODS])),
    ]
    for name, method in methods.METHODS.items():
        text = (method.build.__doc__ or "").strip().partition("\n")
        rest = re.sub(r"\n +", "\n", text[2]).strip()
        rows = [(f"`{o.name}`", _shown(o.default), o.type, o.sentence) for o in methods.options(name)]
        table = "\n".join(_table(("option", "default", "type", "meaning"), rows)) if rows else "It has no options."
        parts += [f"## {name}", text[0], rest, table]
    names = [(f"`{name}`", what) for name, what in models.available().items()]
    parts += ["## Models", "Names of `--student`, `--model` and `models.create`; `tuition models NAME` lists layers."]
    parts += ["\n".join(_table(("name", "what it is"), names))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _store_tables() -> str:
    from tuition.store import database

    parts = []
    for table in (value for value in vars(database).values() if isinstance(value, database.sa.Table)):
        rows = [
            (f"`{c.name}`", str(c.type), "primary key" if c.primary_key else "unique" if c.unique else "")
            for c in table.columns
        ]
        parts += [f"### {table.name}", "\n".join(_table(("column", "type", "key"), rows))]
    return "\n\n".join(parts)


def _shown(default: Any) -> str:
    if default is None:
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _prose(text: str) -> str:
    return re.sub(r"\n +", "\n", text.strip())


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in [list(heads), ["---"] * len(heads), *cells]]


REFERENCE: dict[str, Callable[[], str]] = {"commands": _commands, "settings": _settings, "methods": _methods}
