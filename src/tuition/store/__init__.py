"""What was answered and what it cost: responses that are durable, never paid twice, and exactly accounted for."""

from tuition.store.errors import BudgetError, TeacherError
from tuition.store.store import Plan, ResponseStore

__all__ = ["BudgetError", "Plan", "ResponseStore", "TeacherError"]
