"""Files of settings: read from YAML, and kept with each run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuition import escape, factories
from tuition.errors import UserError
from tuition.pipeline.settings import CommandSettings
from tuition.store import address

CONFIG = "config.yaml"
MOST_NODES, DEEPEST, LARGEST_FILE = 100_000, 50, 10_000_000  # of a YAML file
NAMES_CODE = {"teacher", "student", "model", "method", "methods"}  # settings that may name a factory


def read_settings(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; `of` of a class of settings validates its values."""
    import yaml

    try:
        values = load_yaml(_read_text(Path(path)))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}; give a YAML file of settings."
        ) from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, TypeError) as error:  # not UTF-8, the 45th of a month, a list for a key
        where = getattr(error, "problem_mark", None)
        line = f" near line {where.line + 1}" if where is not None else ""
        why = getattr(error, "problem", None)
        what = f" ({escape.shorten(why, 80)})" if why else ""
        raise UserError(f"{path} is not valid YAML{line}{what}; fix it and try again.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold 'setting: value' lines, not a {type(values).__name__}.")
    return values


def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Numbers as in YAML 1.2 and JSON: 1e-2 is one, and was a string in YAML 1.1."""

    number = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
    # Before those of YAML 1.1, of which integers come first: what this adds is a number with an exponent.
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{number.pattern}$"), list("-+0123456789."))
    return Loader


def load_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        yaml.YAMLError: it is not valid, has a key twice, is nested too deeply, or its aliases make it too large.
    """
    import yaml

    loader = _loader()(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def _check_nodes(root: Any) -> None:
    """Count what a node stands for, its aliases written out, and look for keys that appear twice."""
    import yaml

    count, left = 0, [(root, 0)]
    while left:
        node, depth = left.pop()
        count += 1
        if count > MOST_NODES or depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem="it is too large or too deep", problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if (key.tag, key.value) in seen:
                        raise yaml.MarkedYAMLError(problem="a key appears twice", problem_mark=key.start_mark)
                    seen.add((key.tag, key.value))
                left += [(key, depth + 1), (value, depth + 1)]
        elif isinstance(node, yaml.SequenceNode):
            left += [(item, depth + 1) for item in node.value]


def _read_text(path: Path) -> str:
    """The text of a file, or of a pipe."""
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path} has more than {LARGEST_FILE:,} bytes; give a YAML file of settings.")
    return content.decode("utf-8-sig")


def refuse_code(values: Any, where: str, trust_code: bool) -> None:
    """Refuse settings of a file, however deep, that name code, or that would trust it, unless it is trusted.

    Raises:
        UserError: the first of these.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key == "trust_code":
                raise UserError(f"{where} sets trust_code; say --trust-code on the command line, if you trust it.")
            for each in value if isinstance(value, list) else [value]:
                if key in NAMES_CODE:
                    factories.refuse_untrusted(each, where, trust_code)
                refuse_code(each, where, trust_code)


def kept_settings(settings: CommandSettings) -> dict[str, bytes]:
    """The file of a run's folder that holds its settings, by its name: `--config` reads it as it is.

    It holds no password of a store, and does not say that code is trusted.
    """
    import yaml

    values: dict[str, Any] = settings.model_dump(mode="json", exclude={"ask": {"trust_code"}})
    if "ask" in values:
        values["ask"]["store"] = address.without_password(values["ask"]["store"])
    return {CONFIG: yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()}
