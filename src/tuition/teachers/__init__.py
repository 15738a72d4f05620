"""Who is asked: one base class, one file an adapter, and `load("kind:name")`."""

from tuition.teachers.function import from_callable
from tuition.teachers.load import KINDS, load
from tuition.teachers.onnx import from_onnx
from tuition.teachers.open_inference import from_v2
from tuition.teachers.openai import from_openai
from tuition.teachers.protocol import Answer, BadAnswer, NotCharged, Refused, Teacher, Tokens, as_teacher
from tuition.teachers.pytorch import from_torch
from tuition.teachers.sklearn import from_sklearn
from tuition.teachers.timm import from_timm
from tuition.teachers.transformers import from_transformers

__all__ = [
    "KINDS",
    "Answer",
    "BadAnswer",
    "NotCharged",
    "Refused",
    "Teacher",
    "Tokens",
    "as_teacher",
    "from_callable",
    "from_onnx",
    "from_openai",
    "from_sklearn",
    "from_timm",
    "from_torch",
    "from_transformers",
    "from_v2",
    "load",
]
