"""What was answered and what it cost: responses that are durable, never paid twice, and exactly accounted for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tuition.store.errors import BudgetError, Stopped, TeacherError
from tuition.store.store import Plan, ResponseStore

if TYPE_CHECKING:
    from tuition.store.comparison import Comparison, reask
    from tuition.store.maps import maps_bytes, recompute
    from tuition.store.moving import Moved, export, import_
    from tuition.store.upkeep import Usage, Verification, mend, prune, usage, verify

__all__ = [
    "BudgetError",
    "Comparison",
    "Moved",
    "Plan",
    "ResponseStore",
    "Stopped",
    "TeacherError",
    "Usage",
    "Verification",
    "export",
    "import_",
    "maps_bytes",
    "mend",
    "prune",
    "reask",
    "recompute",
    "usage",
    "verify",
]

_MODULES = {  # loaded when used, for they need SQLAlchemy
    "maps": ("maps_bytes", "recompute"),
    "moving": ("Moved", "export", "import_"),
    "comparison": ("Comparison", "reask"),
    "upkeep": ("Usage", "Verification", "mend", "prune", "usage", "verify"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"tuition.store.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
