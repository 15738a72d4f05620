"""Digest of the source of own code that a function reaches, without any value: what tells it from an edited one.

That is the source (see `tuition.syntax`) of the function, of own functions and classes that it reaches, through other
modules too, and of the statements that bind the global and closed-over variables it reads. What variables, default
arguments and objects hold takes no part: the same program gives the same digest each time it runs. A notebook or prompt
keeps no statements of other cells; there, globals that are numbers or text count by value.

Not covered: what is looked up by name while it runs, and statements that change a variable without binding it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import linecache
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tuition.identity import SIMPLE, WRITTEN
from tuition.syntax import bytecode, content, facts_in, imported, is_own, located, parts, plain

LONGEST = 1000  # items of a list beyond which none is looked at
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def source_digest(function: Any) -> str | None:
    """Digest of the own source that a function or callable object reaches; None where there is none."""
    walk = _Reached()
    walk.todo.append(function)
    while walk.todo:
        walk.value(walk.todo.pop())
    digest = hashlib.blake2b(digest_size=8)
    for piece in sorted(walk.pieces):
        digest.update(f"{len(piece)}:{piece}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest() if walk.pieces else None


@dataclass
class _Reached:
    """One digest under way. Pieces are a set, as the order in which code is met may depend on values."""

    pieces: set[str] = field(default_factory=set)
    todo: list[Any] = field(default_factory=list)
    seen: dict[int, Any] = field(default_factory=dict)  # values, kept so that ids stay theirs
    bound: set[tuple[Any, ...]] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    def value(self, value: Any) -> None:
        """Take what a value has of code, and note the values that it leads to."""
        if isinstance(value, SIMPLE) or id(value) in self.seen:
            return
        self.seen[id(value)] = value
        made_of = parts(value)
        self.todo += made_of or ()
        if isinstance(value, types.FunctionType):
            self.function(value)
        elif isinstance(value, type):
            self.klass(value)
        elif isinstance(value, (list, tuple, set, frozenset, dict)):
            if len(value) <= LONGEST:
                self.todo += value.values() if isinstance(value, dict) else value
        elif made_of is None and not isinstance(value, types.ModuleType):
            self.instance(value)

    def instance(self, value: Any) -> None:
        cls, attributes = type(value), getattr(value, "__dict__", None)
        self.todo.append(cls)
        ours = str(cls.__module__).partition(".")[0] == "tuition"  # may hold the user's
        if isinstance(attributes, dict) and (ours or is_own(cls.__module__) or isinstance(value, nn.Module)):
            self.todo += attributes.values()

    def function(self, function: types.FunctionType) -> None:
        code, facts = function.__code__, facts_in(function.__code__)
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        kept = [name for name in cells if name not in facts.assigned_names]
        self.todo += [content(cells[name]) for name in kept]
        if not is_own(function.__globals__.get("__name__")):
            return
        self.todo += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        place, names, attributes = located(function), set(facts.loads), set(facts.attributes)
        if place is None:
            self.pieces.add(bytecode(code))
        else:
            node, around = place
            self.pieces.add(plain(node))
            outside = [*node.args.defaults, *node.args.kw_defaults, *getattr(node, "decorator_list", [])]
            names |= _loads(outside)
            attributes |= _attributes(outside)
            for name in kept:
                self.local(function.__globals__, around, name)
        for name in names - facts.assigned_names:
            self.name(function.__globals__, name, attributes)
        package = str(function.__globals__.get("__package__") or "")
        for level, name in facts.imports:
            self.pieces |= {plain(tree) for _, tree in imported("." * level + name, package, self.files)}

    def klass(self, cls: type) -> None:
        if not is_own(cls.__module__):
            return
        self.todo += cls.__bases__
        space = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
        node = _class_node(space, cls.__qualname__)
        if node is not None:
            self.pieces.add(plain(node))
            for name in _loads([node]):
                self.name(space, name, _attributes([node]))
        for name, item in vars(cls).items():
            generated = isinstance(item, types.FunctionType) and item.__code__.co_filename == "<string>"
            if name in WRITTEN or generated:
                continue
            self.todo.append(item)
            if node is None and _simple(item):
                self.pieces.add(f"{name} = {item!r}")

    def name(self, space: dict[str, Any], name: str, attributes: Iterable[str]) -> None:
        """A name that code of a module reads; of a module it stands for, the attributes that the code reads."""
        value = space.get(name)
        used = frozenset(attributes) if isinstance(value, types.ModuleType) else None
        if name not in space or (id(space), name, used) in self.bound:
            return
        self.bound.add((id(space), name, used))
        if isinstance(value, types.ModuleType):
            for attribute in (used or set()) & set(vars(value)) if is_own(value.__name__) else ():
                self.name(vars(value), attribute, attributes)
            return
        self.todo.append(value)
        tree = _module_tree(space)
        if tree is None:
            if _simple(value):
                self.pieces.add(f"{name} = {value!r}")
            return
        for statement in _binding(tree.body, name):
            if isinstance(statement, ast.ImportFrom):
                self.imported_name(space, statement, name)
            elif not isinstance(statement, ast.Import):
                self.statement(space, (), statement)

    def imported_name(self, space: dict[str, Any], statement: ast.ImportFrom, name: str) -> None:
        relative = "." * statement.level + (statement.module or "")
        try:
            module = sys.modules.get(importlib.util.resolve_name(relative, space.get("__package__")))
        except ImportError:
            return
        names = [it.name for it in statement.names if (it.asname or it.name) == name] or [name]
        if module is not None and is_own(module.__name__):
            self.name(vars(module), names[0], ())

    def local(self, space: dict[str, Any], around: Sequence[Any], name: str) -> None:
        """A variable of a function around the one that reads it."""
        for i, node in enumerate(around):
            statements = [] if isinstance(node, ast.Lambda) else list(_binding(node.body, name))
            for statement in statements:
                if not isinstance(statement, (ast.Import, ast.ImportFrom)) and id(statement) not in self.seen:
                    self.seen[id(statement)] = statement
                    self.statement(space, around[i:], statement)

    def statement(self, space: dict[str, Any], around: Sequence[Any], statement: Any) -> None:
        self.pieces.add(plain(statement))
        for name in _loads([statement]):
            self.local(space, around, name)
            self.name(space, name, _attributes([statement]))


def _simple(value: Any) -> bool:
    return isinstance(value, SIMPLE) or (isinstance(value, tuple) and all(map(_simple, value)))


_TREES: dict[str, tuple[Any, Any]] = {}  # of a file: the specification it was loaded by, and the syntax tree


def _module_tree(space: dict[str, Any]) -> Any:
    """The syntax tree of the module with these variables, as it was when first looked at since it was loaded."""
    file, spec = space.get("__file__"), space.get("__spec__")
    if not isinstance(file, str):
        return None
    if file not in _TREES or _TREES[file][0] is not spec:
        linecache.checkcache(file)
        try:
            _TREES[file] = spec, ast.parse("".join(linecache.getlines(file)))
        except (SyntaxError, ValueError):
            _TREES[file] = spec, ast.Module(body=[], type_ignores=[])
    return _TREES[file][1]


def _class_node(space: dict[str, Any], qualname: str) -> Any:
    node = _module_tree(space)
    for part in qualname.split("."):
        inner = [] if node is None or part == "<locals>" else _definitions(node.body, part)
        node = node if part == "<locals>" else (inner[-1] if inner else None)
    return node if isinstance(node, ast.ClassDef) else None


def _definitions(body: Sequence[Any], name: str) -> list[Any]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [it for it in _statements(body) if isinstance(it, kinds) and it.name == name]


def _statements(body: Sequence[Any]) -> Iterator[Any]:
    """The statements of one scope."""
    for node in body:
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from _statements(getattr(node, part, []))


def _binding(body: Sequence[Any], name: str) -> Iterator[Any]:
    """Statements of one scope that bind a name, or an item or attribute of it; of a loop or `with`, its head."""
    for node in _statements(body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound = {it.asname or it.name.partition(".")[0] for it in node.names}
            if name in bound or "*" in bound:
                yield node
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(_root(it) == name for target in targets for it in _flat(target)):
                yield node
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            if any(_root(it) == name for it in _flat(node.target)):
                yield ast.Assign(targets=[node.target], value=node.iter)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                if item.optional_vars is not None and any(_root(it) == name for it in _flat(item.optional_vars)):
                    yield ast.Assign(targets=[item.optional_vars], value=item.context_expr)


def _flat(target: Any) -> Iterator[Any]:
    if isinstance(target, (ast.Tuple, ast.List)):
        for it in target.elts:
            yield from _flat(it)
    else:
        yield target


def _root(target: Any) -> str | None:
    while isinstance(target, (ast.Subscript, ast.Attribute, ast.Starred)):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


def _loads(nodes: Iterable[Any]) -> set[str]:
    """Names that are read, outside of functions; decorators and defaults of these are read outside."""
    names, todo = set[str](), [it for it in nodes if it is not None]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo += [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.decorator_list]
        else:
            todo += ast.iter_child_nodes(node)
    return names


def _attributes(nodes: Iterable[Any]) -> set[str]:
    return {it.attr for node in nodes if node is not None for it in ast.walk(node) if isinstance(it, ast.Attribute)}
