"""`tuition import-teacher`: a folder of a teacher, as `tuition teach` makes it, from published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuition import models
from tuition.data.transfer import Accounts, Bill
from tuition.models.repdistiller import MEAN, STD, load_repdistiller
from tuition.teachers.names import class_names as check_names
from tuition.training import Student, files
from tuition.training.run import TEACHER, versions


def import_teacher(
    path: Path,
    model: str,
    out: Path,
    *,
    size: int = 32,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    class_names: Sequence[str] | None = None,
) -> Student:
    """The teacher in a checkpoint of RepDistiller, written to a folder that `--teacher` takes.

    Args:
        path: the file: {"model": state_dict}, or a state dict.
        model: its architecture, such as wrn_40_2.
        out: the folder; an earlier import of the same file is replaced.
        size: side of the images it was trained on.
        mean, std: one value a channel, for images in [0, 1]; by default those of its CIFAR-100.
        class_names: one name a class, in the order of its logits.

    Raises:
        UserError: the file cannot be read or is for another model, or the folder holds something else.
    """
    net = load_repdistiller(path, model)
    names = check_names(class_names, len(net.state_dict()["classifier.weight"]))
    student = Student(net, models.Preprocess(mean, std), input_shape=(3, size, size), class_names=names)
    settings = {"imported": path.name, "student": model, "mean": list(mean), "std": list(std), "size": size}
    record = {
        "settings": settings,
        "accounts": Accounts().as_dict(),
        "bill": Bill().as_dict(),
        "status": "done",
        "results": {},
        "student": student.card() | {"weights": TEACHER},
        "versions": versions(),
    }
    files.check_writable(out)
    files.find_run(out, settings)
    models.save_weights(student, out / TEACHER)
    files.write_json(out / files.RUN, record)
    return student.eval()
