"""Who is asked: one small protocol, one file an adapter."""

from tuition.teachers.function import from_callable
from tuition.teachers.local import from_torch
from tuition.teachers.protocol import NotCharged, Teacher
from tuition.teachers.transformers import from_transformers

__all__ = ["NotCharged", "Teacher", "from_callable", "from_torch", "from_transformers"]
