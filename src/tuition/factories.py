"""The user's own code, named as `package.module:factory`: found, imported and called.

It is imported where the user names it, in a command or a call. A file that somebody else may have written, such as
run.json or a study, names code only for `--trust-code` (see `refuse_untrusted`).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from tuition.errors import UserError, first_line

LIBRARIES = {"onnx", "openai", "timm", "transformers", "v2"}  # KIND:NAME, whose code is installed


def is_factory(name: object) -> bool:
    """Whether a name has the form `package.module:factory`."""
    if not isinstance(name, str):
        return False
    module, colon, attribute = name.partition(":")
    named = bool(colon) and module not in LIBRARIES and attribute.isidentifier()
    return named and all(part.isidentifier() for part in module.split("."))


def named_in(settings: Mapping[str, Any]) -> bool:
    """Whether the settings in a run.json name code, which its config.yaml then names too."""
    named = [settings.get(name) for name in ("teacher", "student", "method")]
    return any(is_factory(each["name"] if isinstance(each, Mapping) else each) for each in named)


def own_module(name: str) -> str | None:
    """The module of the current folder that `module` or `module.py` names, where a function is missing; else None."""
    module = name.removesuffix(".py")
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    place = module.replace(".", os.sep)
    there = os.path.isfile(f"{place}.py") or os.path.isfile(os.path.join(place, "__init__.py"))
    return module if there else None


def refuse_untrusted(name: object, where: str, trust_code: bool) -> None:
    """Refuse code that a file names, unless the user trusts it.

    Raises:
        UserError: `name` is a factory, and `trust_code` is false.
    """
    if is_factory(name) and not trust_code:
        raise UserError(
            f"{where} names code, {name}, which would run; read that code, and if you trust it, "
            "give --trust-code (in Python: trust_code=True)."
        )


def find(name: str) -> Callable[..., Any]:
    """The function or class that `package.module:factory` names.

    The module is searched where Python searches for modules and then, last, in the current folder. A file there never
    hides a module of Python or of an installed package, and it is not taken for an optional package that is not
    installed (see `Beside`).

    Raises:
        UserError: the module is missing, fails, is part of Python or hidden by an installed one, or it has nothing
            callable so named.
    """
    module_name, _, attribute = name.partition(":")
    top = module_name.partition(".")[0]
    if module_name.endswith(".py") and os.path.isfile(module_name):
        raise UserError(f"{module_name} is a file, not a module; write {module_name.removesuffix('.py')}:{attribute}.")
    _reach(top)
    if top in sys.stdlib_module_names:
        raise UserError(f"{name} is part of Python; name a function of your own, package.module:factory.")
    try:
        module = importlib.import_module(module_name)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{name} cannot be imported ({first_line(error)}); is it on PYTHONPATH, or in this folder?"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's own module does
        raise UserError(f"{name} cannot be imported: {_summary(error)}; fix {module_name} first.") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        near = get_close_matches(attribute, dir(module))
        hint = f" (nearest: {', '.join(near)})" if near else ""
        raise UserError(f"{module_name} has no function or class {attribute!r}{hint}; name one that it has.")
    return factory


def call(name: str, factory: Callable[..., Any], **arguments: Any) -> Any:
    """What the factory returns; `name` is for messages.

    Raises:
        UserError: it failed, or asked Python to exit.
    """
    try:
        return factory(**arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code does
        raise UserError(f"{name} failed with {_summary(error)}; fix it first.") from error


def kind(value: object) -> str:
    """What a factory returned, in words."""
    if value is None:
        return "nothing (None)"
    return f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__


def _reach(top: str) -> None:
    """Allow a top module to be imported from the current folder, if it is not found elsewhere.

    Raises:
        UserError: the folder has a module of this name, and another one goes before it.
    """
    here = os.getcwd()
    sys.meta_path[:] = [it for it in sys.meta_path if not isinstance(it, Beside) or it.folder == here]
    try:
        known = importlib.util.find_spec(top)
    except ValueError:  # a module without a specification, such as __main__
        return
    own = PathFinder.find_spec(top, [here])
    if known is None or known.origin is None:  # unknown, or a folder without __init__.py
        beside = next((it for it in sys.meta_path if isinstance(it, Beside) and it.folder == here), None)
        if beside is None:
            sys.meta_path.append(beside := Beside(here))
        beside.named.add(top)
        importlib.invalidate_caches()
    elif own is not None and own.origin is not None and not _same_file(own, known):
        raise UserError(
            f"{os.path.relpath(own.origin)} in this folder has the name of another module, {top} "
            f"({'part of Python' if top in sys.stdlib_module_names else 'installed'}); rename your file."
        )


class Beside:
    """Finds modules in a folder, after all others: those the user named, and what code of this folder imports.

    Not by the import path, on which libraries look for each other: an optional one that is not installed would be taken
    from a folder of data.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.named = folder, set[str]()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if path is not None or (name not in self.named and not self._from_here()):
            return None
        return PathFinder.find_spec(name, [self.folder])

    def _from_here(self) -> bool:
        """Whether the import under way stands in a file of this folder that is not a library's."""
        frame = sys._getframe(2)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back  # type: ignore[assignment]
        file = "" if frame is None else frame.f_code.co_filename
        libraries = (sys.prefix + os.sep, sys.base_prefix + os.sep)
        return file.startswith(self.folder + os.sep) and "-packages" not in file and not file.startswith(libraries)


def _same_file(one: ModuleSpec, other: ModuleSpec) -> bool:
    return os.path.realpath(str(one.origin)) == os.path.realpath(str(other.origin))


def _summary(error: BaseException) -> str:
    return type(error).__name__ + (f": {first_line(error)}" if str(error).strip() else "")
