"""Own code as its source: what it says, and what it refers to."""

from __future__ import annotations

import ast
import dis
import functools
import importlib.util
import linecache
import os
import sys
import sysconfig
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

BIRTH = {"__init__", "__post_init__", "__new__"}  # where an object's attributes are set once
MUTATORS = {"append", "extend", "insert", "update", "setdefault", "pop", "popitem", "add", "remove", "clear", "discard"}


def is_own(module_name: str | None) -> bool:
    """Whether a module is the user's: not of Python, of an installed package, or ours."""
    top = (module_name or "").partition(".")[0]
    if top == "__main__" or not module_name:
        return True
    if top in sys.stdlib_module_names or top == "tuition":
        return False
    module = sys.modules.get(module_name)
    file = getattr(module, "__file__", None)
    return getattr(module, "__spec__", None) is None if file is None else own_file(file)


@functools.cache
def own_file(file: str) -> bool:
    real = os.path.realpath(file)
    if {"site-packages", "dist-packages"} & set(real.split(os.sep)) or not real.endswith((".py", ".ipynb")):
        return False
    return not any(
        real.startswith(os.path.realpath(sysconfig.get_path(it)) + os.sep) for it in ("stdlib", "platstdlib")
    )


@dataclass(frozen=True)
class Facts:
    """What a piece of code, with all code in it, refers to."""

    loads: frozenset[str] = frozenset()  # globals
    assigned_names: frozenset[str] = frozenset()  # globals and closed-over variables
    attributes: frozenset[str] = frozenset()
    assigned: frozenset[str] = frozenset()  # attributes
    imports: frozenset[tuple[int, str]] = frozenset()
    mutates: bool = False

    def __or__(self, other: Facts) -> Facts:
        return Facts(
            self.loads | other.loads,
            self.assigned_names | other.assigned_names,
            self.attributes | other.attributes,
            self.assigned | other.assigned,
            self.imports | other.imports,
            self.mutates or other.mutates,
        )


@functools.lru_cache(maxsize=4096)
def facts_in(code: types.CodeType) -> Facts:
    loads, names, attributes, assigned = set[str](), set[str](), set[str](), set[str]()
    imports = set[tuple[int, str]]()
    mutates, last = False, [0, 0]
    for step in dis.get_instructions(code):
        kind, name = step.opname, step.argval
        if kind in ("LOAD_GLOBAL", "LOAD_NAME"):
            loads.add(name)
        elif kind in ("STORE_GLOBAL", "DELETE_GLOBAL") or (kind == "STORE_DEREF" and name in code.co_freevars):
            names.add(name)
        elif kind in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.add(name)
        elif kind in ("STORE_ATTR", "DELETE_ATTR"):
            assigned.add(name)
        elif kind in ("STORE_SUBSCR", "DELETE_SUBSCR"):
            mutates = True
        elif kind == "IMPORT_NAME":
            imports.add((last[0] if isinstance(last[0], int) else 0, name))
        last = [last[1], step.argval]
    facts = Facts(
        frozenset(loads),
        frozenset(names),
        frozenset(attributes),
        frozenset(assigned),
        frozenset(imports),
        mutates or bool(MUTATORS & attributes),
    )
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            facts |= facts_in(inner)
    return facts


def facts_of(cls: Any) -> Facts:
    """Of the methods of a class that run after its objects are made."""
    facts = Facts()
    for base in cls.__mro__:
        if base in (nn.Module, object):
            continue
        for name, item in vars(base).items():
            function = getattr(item, "__wrapped__", getattr(item, "__func__", getattr(item, "fget", item)))
            if name not in BIRTH and isinstance(function, types.FunctionType):
                facts |= facts_in(function.__code__)
    return facts


def content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


def parts(value: Any) -> tuple[Any, ...] | None:
    """What a method, a property, a partial function or the like is made of; None of anything else."""
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if "__wrapped__" in getattr(value, "__dict__", {}):  # by functools.wraps
        return (value.__wrapped__,)
    if isinstance(value, (staticmethod, classmethod)):
        return (value.__func__,)
    if isinstance(value, property):
        return value.fget, value.fset
    if isinstance(value, functools.cached_property):
        return (value.func,)
    if isinstance(value, (functools.partial, functools.partialmethod)):
        return value.func, value.args, tuple(sorted(value.keywords.items()))
    return None


def source(function: types.FunctionType) -> str | None:
    """A function's syntax tree in text; None where its source is not known."""
    place = located(function)
    return None if place is None else plain(place[0])


Located = tuple[Any, tuple[Any, ...]]
_LOCATED: dict[tuple[str, types.CodeType], tuple[Any, Located | None]] = {}


def located(function: types.FunctionType) -> Located | None:
    """A function's syntax tree, and those of the functions around it, from the inside out; None where not known.

    It is looked up once for each time that the module is loaded, so that a later edit of the file takes no part.
    """
    code, loaded = function.__code__, function.__globals__.get("__spec__")
    key = code.co_filename, code
    if key not in _LOCATED or _LOCATED[key][0] is not loaded:
        place = None
        linecache.checkcache(code.co_filename)
        text = "".join(linecache.getlines(code.co_filename))
        if code in _compiled(text):  # else the file was edited after it was loaded
            place = _place(code, text)
        _LOCATED[key] = loaded, place
    return _LOCATED[key][1]


def _place(code: types.CodeType, text: str) -> tuple[Any, tuple[Any, ...]] | None:
    places = [(line, column) for line, _, column, _ in code.co_positions() if line is not None and column is not None]
    candidates = []
    for node, around in _functions(text):
        first = min([node.lineno, *(it.lineno for it in getattr(node, "decorator_list", []))])
        if first == code.co_firstlineno and getattr(node, "name", "<lambda>") == code.co_name:
            candidates.append((node, around))
    if len(candidates) > 1:  # lambdas of one line
        candidates = [
            it for it in candidates if all(_holds(it[0], place) for place in places if place[0] >= it[0].lineno)
        ]
    return candidates[0] if len(candidates) == 1 else None


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> frozenset[types.CodeType]:
    """All code that a text compiles to."""
    try:
        todo = [compile(text, "", "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return frozenset()
    codes = set[types.CodeType]()
    while todo:
        inner = [it for it in todo.pop().co_consts if isinstance(it, types.CodeType)]
        codes.update(inner)
        todo += inner
    return frozenset(codes)


def _holds(node: Any, place: tuple[int, int]) -> bool:
    return (node.body.lineno, node.body.col_offset) <= place <= (node.end_lineno, node.end_col_offset) or place == (
        node.lineno,
        0,
    )


@functools.lru_cache(maxsize=64)
def _functions(text: str) -> tuple[tuple[Any, tuple[Any, ...]], ...]:
    """All functions of a text, each with those around it."""
    functions, todo = list[tuple[Any, tuple[Any, ...]]](), list[tuple[Any, tuple[Any, ...]]]([(ast.parse(text), ())])
    while todo:
        parent, around = todo.pop()
        for node in ast.iter_child_nodes(parent):
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if function:
                functions.append((node, around))
            todo.append((node, (node, *around) if function else around))
    return tuple(functions)


def plain(node: Any) -> str:
    """A syntax tree in text: without places, docstrings and what is empty, so that it is the same in every Python."""
    if isinstance(node, list):
        return f"[{','.join(map(plain, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and _is_docstring(value[:1]):
            value = value[1:]
        if value not in (None, []) and name not in ("ctx", "kind", "type_comment"):
            parts.append(f"{name}={plain(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _is_docstring(body: list[Any]) -> bool:
    text = body[0].value if body and isinstance(body[0], ast.Expr) else None
    return isinstance(text, ast.Constant) and isinstance(text.value, str)


def bytecode(code: types.CodeType) -> str:
    constants = [bytecode(it) if isinstance(it, types.CodeType) else _constant(it) for it in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def imported(name: str, package: str, seen: set[str]) -> Iterator[tuple[str, Any]]:
    """Name and syntax tree of an own module that is imported while code runs, and of those that it imports."""
    try:
        spec = importlib.util.find_spec(name, package or None)
    except (ImportError, ValueError, AttributeError):
        return
    file = None if spec is None else spec.origin
    if spec is None or file is None or not is_own(spec.name) or not own_file(file) or file in seen:
        return
    seen.add(file)
    tree = ast.parse("".join(linecache.getlines(file)) or "0")
    yield name, tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from imported(alias.name, "", seen)
        elif isinstance(node, ast.ImportFrom):
            yield from imported("." * node.level + (node.module or ""), spec.parent or "", seen)
