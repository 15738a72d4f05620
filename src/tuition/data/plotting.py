"""Matplotlib as it is used here: to write files, whatever MPLBACKEND says."""

from __future__ import annotations

import contextlib
import os
from types import ModuleType


def matplotlib() -> ModuleType:
    """The library. A backend that cannot be imported here, as a notebook names it for its children, is passed over.

    Figures are made without pyplot and need no backend; one that does exist stays the choice of who asked for it.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as library
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):
            library.rcParams["backend"] = backend
    return library
