"""Digests of the user's own code, and of values: what tells a teacher, a loss or a model from an edited one.

*Own* code is all but Python's, that of installed packages, and ours. Of a function it is the source as a syntax tree,
so that comments, docstrings and layout take no part, and what it refers to: other own functions and classes, defaults,
and the values of globals and closed-over variables. Without a source (a lambda typed at a prompt) it is the
bytecode, which differs between versions of Python.

Not covered: what an object of a library holds (a client, an estimator), variables and attributes that the code itself
assigns, lists and the like where the code changes some, and what is looked up by name while it runs.
"""

from __future__ import annotations

import enum
import hashlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePath
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tuition.syntax import bytecode, content, facts_in, facts_of, imported, is_own, parts, plain, source

NUMBERS: tuple[type, ...] = (bool, int, float, complex, Decimal, np.generic, np.dtype, torch.dtype, torch.device)
SIMPLE = (*NUMBERS, type(None), type(Ellipsis), str, bytes, range, slice, torch.Size, PurePath, re.Pattern)
CONTAINERS = (list, dict, set, bytearray)
# What Python itself writes into a class.
WRITTEN = {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__", "__annotate_func__"}
WRITTEN |= {"__annotations_cache__", "__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl"}
WRITTEN |= {"__dataclass_fields__", "__dataclass_params__", "__match_args__", "__parameters__", "__orig_bases__"}


def code_digest(*values: Any, but: Iterable[nn.Module] = (), always: bool = False) -> str | None:
    """Digest of the own code that functions, classes and modules are made of.

    Modules among the values count by their classes and hooks. What code refers to counts by value, modules by their
    weights too, except those of `but`. Without own code the digest is None, unless `always` is true.
    """
    walk = Walk(but=frozenset(id(it) for module in but for it in module.modules()))
    for value in values:
        if isinstance(value, nn.Module):
            walk.classes(value)
        else:
            walk.value(value)
    return walk.hash.hexdigest()[:16] if walk.own or always else None


def content_digest(value: Any) -> str:
    """Digest of a value by what it holds, tensors and arrays by their content."""
    walk = Walk()
    walk.value(value)
    return walk.hash.hexdigest()


def state_digest(model: nn.Module) -> str | None:
    """Digest of what a model holds besides its `state_dict`; None if it holds nothing else.

    That is: buffers that are not saved, tensors and arrays that are plain attributes, and, of modules of own code,
    other plain attributes; not those that the code assigns while it runs.
    """
    walk, some = Walk(), False
    for path, module in model.named_modules():
        for name, value in _plain_attributes(module).items():
            some = True
            walk.put(path, name)
            walk.value(value)
    return walk.hash.hexdigest()[:16] if some else None


def tensor_bytes(value: Tensor) -> Iterator[bytes]:
    """The content of a tensor of any kind, the same on every device."""
    value = value.detach()
    flatten = getattr(value, "__tensor_flatten__", None)
    if flatten is not None and type(value) not in (
        Tensor,
        nn.Parameter,
    ):  # quantised tensors of torchao, and their like
        names, context = flatten()
        yield f"{type(value).__qualname__} {context!r}".encode()
        for name in names:
            yield from tensor_bytes(getattr(value, name))
    elif value.is_quantized:
        yield repr(value.qscheme()).encode()
        if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            yield f"{value.q_scale()!r} {value.q_zero_point()!r}".encode()
        else:
            yield from tensor_bytes(value.q_per_channel_scales())
            yield from tensor_bytes(value.q_per_channel_zero_points())
        yield from tensor_bytes(value.int_repr())
    elif value.layout != torch.strided:
        yield from tensor_bytes(value.to_dense())
    else:
        yield value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data  # type: ignore[misc]


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module that count by value, by name."""
    own = any(is_own(cls.__module__) for cls in type(module).__mro__)
    facts = facts_of(type(module))
    kinds = (Tensor, np.ndarray, *((*SIMPLE, tuple) if own else ()), *(CONTAINERS if own and not facts.mutates else ()))
    plain = {name: value for name, value in vars(module).items() if name not in _MODULE_ATTRIBUTES}
    plain |= {name: module._buffers[name] for name in module._non_persistent_buffers_set}
    return {
        name: value
        for name, value in sorted(plain.items())
        if isinstance(value, kinds) and not callable(value) and name not in facts.assigned
    }


# Of every module, or written by models.create, torch.compile and transformers.
_MODULE_ATTRIBUTES = {*vars(nn.Module()), "_is_torch_compile", "_is_hf_initialized"}


@dataclass
class Walk:
    """One digest under way."""

    DEEPEST: ClassVar[float] = 40  # nesting of values, beyond which only the kind counts
    LONGEST: ClassVar[float] = 100_000  # items of a list, beyond which only kind and length count

    but: frozenset[int] = frozenset()
    hash: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    own: bool = False
    seen: dict[int, Any] = field(default_factory=dict)  # functions, classes and modules, kept so that ids stay theirs
    files: set[str] = field(default_factory=set)  # of modules imported while code runs
    within: list[int] = field(default_factory=list)

    def put(self, *texts: str) -> None:
        for text in texts:
            self.hash.update(f"{len(text)}:{text}\n".encode("utf-8", "surrogatepass"))

    @contextmanager
    def inside(self, value: Any) -> Iterator[None]:
        self.within.append(id(value))
        try:
            yield
        finally:
            self.within.pop()

    def first(self, value: Any) -> bool:
        """Whether a function, class or module is met the first time."""
        if id(value) in self.seen:
            return False
        self.seen[id(value)] = value
        return True

    def value(self, value: Any) -> None:
        """What a value holds."""
        if isinstance(value, enum.Enum):
            self.put(type(value).__qualname__, value.name)
        elif isinstance(value, SIMPLE):
            self.put(type(value).__name__, repr(value))
        elif id(value) in self.within or len(self.within) > self.DEEPEST:
            self.put("within", type(value).__name__)
        elif isinstance(value, Tensor):
            self.put("tensor", str(value.dtype), str(value.layout), str(tuple(value.shape)))
            for part in tensor_bytes(value):
                self.hash.update(part)
        elif isinstance(value, np.ndarray):
            self.array(value)
        elif isinstance(value, nn.Module):
            self.module(value)
        elif isinstance(value, type):
            self.klass(value)
        elif isinstance(value, types.ModuleType):
            self.put("module", value.__name__)
        elif not self.callable(value):
            with self.inside(value):
                self.items(value)

    def array(self, value: np.ndarray) -> None:
        self.put("array", str(value.dtype), str(value.shape))
        if value.dtype.hasobject:
            self.value(value.tolist())
        else:
            self.hash.update(np.ascontiguousarray(value).tobytes())

    def callable(self, value: Any) -> bool:
        """Take a function, a method or the like; False where the value is something else."""
        made_of = parts(value)
        if made_of is not None:
            for part in made_of:
                self.value(part)
        elif isinstance(value, types.FunctionType):
            self.function(value)
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)):
            self.put("built in", f"{getattr(value, '__module__', '')}.{value.__qualname__}")
        else:
            return False
        return True

    def items(self, value: Any) -> None:
        """What a container or an object holds."""
        if isinstance(value, (list, tuple, set, frozenset, dict, Mapping)):
            self.put(type(value).__name__, str(len(value)))
            if len(value) > self.LONGEST:
                return
            if isinstance(value, Mapping):
                for key, item in sorted(value.items(), key=lambda pair: repr(pair[0])):
                    self.value(key)
                    self.value(item)
            else:
                for item in value if isinstance(value, (list, tuple)) else sorted(value, key=repr):
                    self.value(item)
        elif isinstance(value, bytearray):
            self.put("bytearray", bytes(value).hex())
        elif isinstance(value, torch.ScriptObject):  # packed parameters of quantised modules
            self.put("script object")
            self.value(value.__getstate__())
        else:
            self.instance(value)

    def instance(self, value: Any) -> None:
        cls = type(value)
        self.klass(cls)
        if not is_own(cls.__module__):
            return
        facts = facts_of(cls)
        for name, item in sorted(getattr(value, "__dict__", {}).items()):
            if name not in facts.assigned and not (facts.mutates and isinstance(item, CONTAINERS)):
                self.put(name)
                self.value(item)

    def module(self, value: nn.Module) -> None:
        """A model that code refers to: its classes, and all that it holds."""
        self.put("model")
        if not self.first(value):
            return
        self.classes(value)
        if id(value) not in self.but:
            for name, item in sorted(value.state_dict().items()):
                self.put(name)
                self.value(item)
            self.put(str(state_digest(value)))

    def classes(self, model: nn.Module) -> None:
        """The classes of a model's modules, their hooks, and functions that replace methods."""
        self.first(model)
        for path, module in model.named_modules():
            self.put(path)
            self.klass(type(module))
            hooks = [
                hook for kind in ("_forward_hooks", "_forward_pre_hooks") for hook in getattr(module, kind).values()
            ]
            plain = [item for name, item in sorted(vars(module).items()) if name not in _MODULE_ATTRIBUTES]
            replaced = [item for item in plain if callable(item) and not isinstance(item, nn.Module)]
            for item in [*hooks, *replaced]:  # a library installs its own while it runs, and these change no answer
                bound = isinstance(item, types.MethodType) and isinstance(item.__self__, nn.Module)
                apart = Walk(self.but, seen=self.seen)
                apart.value(item.__func__ if bound else item)
                if apart.own:
                    self.own = True
                    self.put(apart.hash.hexdigest())

    def klass(self, cls: type) -> None:
        self.put("class", cls.__qualname__)
        if not is_own(cls.__module__):
            self.put(cls.__module__)
            return
        self.own = True
        if not self.first(cls):
            return
        for base in cls.__bases__:
            self.klass(base)
        mutates = facts_of(cls).mutates
        for name, item in sorted(vars(cls).items()):
            generated = isinstance(item, types.FunctionType) and "__dataclass_fields__" in vars(cls)
            if name in WRITTEN or (generated and item.__code__.co_filename == "<string>"):
                continue
            if not isinstance(item, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                self.put(name)
                self.held(item, mutates)

    def held(self, value: Any, mutates: bool) -> None:
        if mutates and isinstance(value, CONTAINERS):
            self.put("changes")
        else:
            self.value(value)

    def function(self, function: types.FunctionType) -> None:
        self.put("function", function.__qualname__.rpartition(".")[2])
        module = function.__globals__.get("__name__")
        if not is_own(module):
            self.put(str(module), function.__qualname__)
            if isinstance(module, str) and module.partition(".")[0] == "tuition":  # ours may hold the user's
                for cell in function.__closure__ or ():
                    self.value(content(cell))
            return
        self.own = True
        if not self.first(function):
            return
        code, facts = function.__code__, facts_in(function.__code__)
        self.put(source(function) or bytecode(code))
        with self.inside(function):
            self.value((function.__defaults__, tuple(sorted((function.__kwdefaults__ or {}).items()))))
            closed = zip(code.co_freevars, map(content, function.__closure__ or ()), strict=True)
            known = {name: function.__globals__[name] for name in sorted(facts.loads) if name in function.__globals__}
            for name, value in [*closed, *known.items()]:
                if name in facts.assigned_names:
                    continue
                self.put(name)
                if isinstance(value, types.ModuleType) and is_own(value.__name__):
                    for attribute in sorted(facts.attributes & set(vars(value))):
                        self.put(attribute)
                        self.held(vars(value)[attribute], facts.mutates)
                else:
                    self.held(value, facts.mutates)
        package = str(function.__globals__.get("__package__") or "")
        for level, name in sorted(facts.imports):
            for own, tree in imported("." * level + name, package, self.files):
                self.own = True
                self.put(own, plain(tree))
