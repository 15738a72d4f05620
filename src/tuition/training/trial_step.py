"""One step of training on copies, so that what cannot be trained, copied or saved is known before a call is paid."""

from __future__ import annotations

import torch
from torch import Tensor

from tuition import models
from tuition.data import TransferSet
from tuition.errors import UserError, first_line
from tuition.training.learner import Learner, make_optimizer, make_scaler, step
from tuition.training.objective import Objective
from tuition.training.recentre import last_bias
from tuition.training.setup import Setup
from tuition.training.student import Student
from tuition.training.trained import freezing, training_mode

FEW = 4  # inputs; groups may need more


def attempt(setup: Setup) -> None:
    """Train a copy of the student for one step on a few inputs, save it and load it again.

    The student stays as it is.

    Raises:
        UserError: what is wrong with the student or the method.
    """
    device = setup.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(0)
        copy = models.copied(setup.student).to(device)
        objective, few = _few(setup, copy)
        before = {name: value.detach().clone() for name, value in objective.state_dict().items()}
        try:
            with freezing(copy, setup.settings):
                _train(setup, copy, objective.to(device), few)
        except UserError:
            raise
        except Exception as error:  # whatever the student's or the loss's own code raises
            raise UserError(
                f"the student cannot be trained by {setup.method.name} ({first_line(error)}); change it or the method."
            ) from error
        finally:  # an objective of the user's own is the one that will be trained
            objective.load_state_dict(before)
            objective.zero_grad()
        _save(copy, models.copied(setup.student).to(device))


def _few(setup: Setup, student: Student) -> tuple[Objective, TransferSet]:
    """An objective and the rows that it needs, which are few unless it compares large groups."""
    few = setup.transfer[:FEW]
    objective = setup.objective(student, few)
    if objective.groups is not None and sum(objective.groups) > len(few):
        few = setup.transfer[: sum(objective.groups)]
        objective = setup.objective(student, few)
    return objective, few


def _train(setup: Setup, student: Student, objective: Objective, few: TransferSet) -> None:
    batches = setup.batches(setup.encoded(few), objective, batch_size=2)
    _check_trained(setup, student, objective)
    batch = next(batches.epoch())
    training_mode(student, setup.settings)
    answer = student(batch.inputs)
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != len(batch.inputs):
        what = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise UserError(
            f"the student returns {what} in training mode, not {student.output} of shape (n, k); let it return them "
            "alone (of torchvision's models: aux_logits=False)."
        )
    settings = setup.settings
    learner = Learner(student, objective, settings.precision)
    optimizer, scaler = make_optimizer(learner, settings, setup.device), make_scaler(settings, setup.device)
    for name, value in step(learner, optimizer, batch, clip_norm=settings.clip_norm, scaler=scaler).items():
        if not bool(value.isfinite()):
            raise UserError(
                f"the loss term {name} is {float(value)} before the student has learned anything; change the method's "
                "options."
            )


def _check_trained(setup: Setup, student: Student, objective: Objective) -> None:
    """Refuse a student of which nothing is left to train, and settings that change nothing."""
    settings = setup.settings
    if settings.freeze and not any(p.requires_grad for p in student.parameters()):
        raise UserError("freeze names all that the student could learn; leave some of its modules out.")
    if not any(p.requires_grad for p in (*student.parameters(), *objective.parameters())):
        raise UserError("the student has no parameters to train; set requires_grad on those that it is to learn.")
    if settings.freeze and objective.recentre is not None and not last_bias(student).requires_grad:
        raise UserError(
            f"{setup.method.name} shifts the bias of {models.classifier(student.model)}, which freeze holds; leave it "
            "out of freeze, or use another method."
        )
    if settings.class_weights is not None and not any(term.balanced for term in objective.terms):
        raise UserError(
            f"class_weights needs a cross-entropy on labels, which {setup.method.name} does not have here; leave it "
            "out, or use ce or kd with labels."
        )


def _save(trained: Student, fresh: Student) -> None:
    """Find out whether what a student has learned is in what is saved of it."""
    models.load_tensors(fresh, models.unpacked(models.packed(trained)))
    example = trained.example().to(next(trained.parameters()).device)
    answers = []
    for student in (trained.eval(), fresh.eval()):
        torch.default_generator.manual_seed(0)
        with torch.no_grad():
            answers.append(student(example))
    if not torch.allclose(answers[0], answers[1], rtol=1e-4, atol=1e-5, equal_nan=True):
        raise UserError(
            "the student answers otherwise once it is saved and loaded; keep all that it learns in parameters or "
            "persistent buffers."
        )
