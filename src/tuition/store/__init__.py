"""What was answered and what it cost: responses that are durable, never paid twice, and exactly accounted for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tuition.store.errors import BudgetError, Stopped, TeacherError
from tuition.store.store import AskPlan, ResponseStore

if TYPE_CHECKING:
    from tuition.store.feature_maps import maps_bytes, recompute
    from tuition.store.maintenance import Usage, Verification, drop_damaged, prune, usage, verify
    from tuition.store.reasking import Comparison, reask
    from tuition.store.transport import Copied, export, import_

__all__ = [
    "AskPlan",
    "BudgetError",
    "Comparison",
    "Copied",
    "ResponseStore",
    "Stopped",
    "TeacherError",
    "Usage",
    "Verification",
    "drop_damaged",
    "export",
    "import_",
    "maps_bytes",
    "prune",
    "reask",
    "recompute",
    "usage",
    "verify",
]

_MODULES = {  # loaded when used, because they need SQLAlchemy
    "feature_maps": ("maps_bytes", "recompute"),
    "transport": ("Copied", "export", "import_"),
    "reasking": ("Comparison", "reask"),
    "maintenance": ("Usage", "Verification", "drop_damaged", "prune", "usage", "verify"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"tuition.store.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
