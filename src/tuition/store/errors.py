"""What can go wrong between a store and a teacher."""

from tuition.errors import UserError


class BudgetError(UserError):
    """The calls needed do not fit in the budget. Raised before anything is sent, unless others used it up meanwhile."""


class TeacherError(UserError):
    """The teacher permanently refused, answered badly, or failed in flight. What was answered well is stored."""


class Stopped(UserError):  # noqa: N818 - not a fault: the user stopped it
    """The user stopped the ask. What was answered is stored."""
