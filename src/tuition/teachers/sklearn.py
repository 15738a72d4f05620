"""Fitted scikit-learn estimators as teachers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.identity import Walk
from tuition.teachers.fingerprint import short
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.protocol import NotCharged, Teacher

FLOOR = 1e-6  # of probabilities: a tree's are exactly zero
# Not part of what is answered: how fast it was computed, an object's address, and a search tree that counts its queries
# (and holds no more than the `_fit_X` beside it).
IGNORED = {"n_jobs", "verbose", "_stop_words_id", "_tree"}


@dataclass(frozen=True, eq=False)
class SklearnTeacher(Teacher):
    """A fitted estimator as a teacher; made by `from_sklearn`."""

    model: Any
    scale: float
    given_name: str | None
    class_names: tuple[str, ...] | None = None
    local = True

    @property
    def fingerprint(self) -> str:
        """Class, parameters and all that was fitted, read each time: a new fit makes another teacher."""
        cls = type(self.model)
        return f"sklearn {cls.__module__}.{cls.__qualname__}; fitted {_digest(self.model)}; scale {self.scale!r}"

    @property
    def name(self) -> str:
        return self.given_name or f"{type(self.model).__name__}-{short(self.fingerprint)}"

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        if isinstance(inputs, Tensor):
            scaled = inputs.double() * self.scale if inputs.dtype == torch.uint8 else inputs
            inputs = scaled.flatten(1).cpu().numpy()
        try:
            answer = _logits(self.model, inputs)
        except Exception as error:  # known fate: no answer, and nothing to pay for
            raise NotCharged(f"the estimator failed with {type(error).__name__}: {error}", retry=False) from error
        if answer.shape != (len(inputs), len(self.model.classes_)):
            raise NotCharged(
                f"the estimator answers {len(self.model.classes_)} classes with shape {answer.shape}; an SVC needs "
                "decision_function_shape='ovr'",
                retry=False,
            )
        return {"logits": torch.as_tensor(answer, dtype=torch.float32)}


def from_sklearn(
    model: Any, *, scale: float = 1 / 255, name: str | None = None, class_names: Sequence[str] | None = None
) -> SklearnTeacher:
    """A teacher from a fitted classifier or a pipeline that ends in one. It is never loaded from a pickle.

    It reads float vectors (b, d) as they are; uint8 images (b, c, h, w) times `scale`, flattened to (b, c h w) in that
    order; and b strings, if it is a pipeline for text. It answers {"logits": (b, k)}, columns in the order of its
    `classes_`: the logarithm of `predict_proba`, probabilities below 1e-6 counted as 1e-6; or, of an estimator without
    probabilities, its `decision_function`, which for two classes is one number f and becomes (-f/2, f/2), so that
    f is the difference.

    The fingerprint is a digest of class, parameters, everything fitted, and code of your own in it (see
    `tuition.identity`), equal after a fit to equal data.

    Args:
        model: the fitted estimator.
        scale: what a byte of an image is multiplied by: as when it was fitted.
        name: what people call it; by default the class's name and eight digits of the fingerprint.
        class_names: one name a class, in the order of `classes_`; by default `classes_` themselves.

    Raises:
        UserError: `model` is not a fitted classifier, or the class names are empty, repeated or of another number.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError:
        raise UserError(f"this {type(model).__name__} is not fitted; call its fit first.") from None
    except TypeError as error:
        raise UserError(f"{error}; give a fitted classifier of scikit-learn.") from None
    answers = hasattr(model, "predict_proba") or hasattr(model, "decision_function")
    if not answers or not isinstance(getattr(model, "classes_", None), np.ndarray):
        raise UserError(
            f"{type(model).__name__} has no classes_ with predict_proba or decision_function; give a classifier."
        )
    names = checked_names(model.classes_.tolist() if class_names is None else class_names, len(model.classes_))
    return SklearnTeacher(model, scale, name, names)


def _logits(model: Any, inputs: Any) -> np.ndarray:
    if hasattr(model, "predict_proba"):
        return np.log(np.maximum(model.predict_proba(inputs), FLOOR))
    decision = np.asarray(model.decision_function(inputs))
    return np.stack([-decision / 2, decision / 2], axis=1) if decision.ndim == 1 else decision


class _Fitted(Walk):
    """A digest of a fitted estimator, the same in every process.

    It is not the digest of the pickle, which holds uninitialised padding, memory addresses and the times that a fit
    took. `joblib.hash` changes when a k-d tree answers and when an SVC is unpickled, and fails on a grid search.
    """

    DEEPEST = LONGEST = math.inf

    def array(self, value: np.ndarray) -> None:
        for name in value.dtype.names or ():  # the padding between fields is whatever lay in memory
            self.array(value[name])
        if not value.dtype.names:
            super().array(value)

    def items(self, value: Any) -> None:
        if isinstance(value, Mapping):
            value = {key: item for key, item in value.items() if not _is_ignored(key)}
        super().items(value)

    def instance(self, value: Any) -> None:
        """An estimator, tree, sparse matrix, random state and the like."""
        self.klass(type(value))
        if callable(value) and hasattr(value, "__qualname__"):  # a function of compiled code
            self.put(str(value.__module__), value.__qualname__)
        elif isinstance(value, memoryview):
            self.array(np.asarray(value))
        else:
            reduced = value.__reduce_ex__(4)
            self.value(reduced if isinstance(reduced, str) else list(reduced[:3]))


def _digest(model: Any) -> str:
    walk = _Fitted()
    walk.value(model)
    return walk.hash.hexdigest()


def _is_ignored(key: object) -> bool:
    return isinstance(key, str) and (key in IGNORED or key.rstrip("_").endswith("_time"))
