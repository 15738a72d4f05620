"""Images in folders: `train/<class>/*.png`, or the folders of the classes, or images, directly in one folder.

The images of a split may also lie in one folder `images`, their labels in a list beside it, as in Tiny-ImageNet.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tuition.data import labels as labelling
from tuition.data.files import Walk, check, check_inside, entries, report_passed, root_of
from tuition.data.images import EncodedImages, is_picture
from tuition.data.splits import canonical, hinted
from tuition.errors import UserError

CONTAINERS = {"images", "image", "imgs", "img", "pictures", "pics", "photos", "jpegimages"}
"""Folders of these names hold all pictures of a split: they are not classes, if they stand alone."""
COMPANIONS = {"labels", "label", "annotations", "annotation", "masks", "bboxes", "boxes"}
LISTS = (".txt", ".csv", ".tsv")
LIST_BYTES = 100 << 20


@dataclass
class Part:
    """One split: its pictures in order, the class of each if they have any, and the classes of its folders."""

    pictures: list[Path] = field(default_factory=list)
    classes: list[str] | None = None
    names: set[str] = field(default_factory=set)
    passed: list[Path] = field(default_factory=list)
    listed: str = ""
    unlisted: str = ""


def splits(folder: Path) -> dict[str, Path]:
    """The folder of each split; a folder without folders for splits is all "train".

    Raises:
        UserError: folders that are splits by half, or lie one level deeper, so that they would be taken for classes.
    """
    inner = [path for path in entries(folder) if path.is_dir()]
    for path in inner:
        check_inside(path, root_of(folder))
    known = {path.name: path for path in inner if canonical(path.name)}
    others = [path for path in inner if path.name not in known]
    if known:
        if not any(_folders(path) for path in known.values()) and (beside := [p for p in others if _pictured(p)]):
            raise UserError(
                f"{folder} holds pictures in {_shown(known)}, a split, and in {_shown(p.name for p in beside)}; put "
                "all classes into one folder train, or move the others away."
            )
        return known
    names = [path.name for path in inner]
    if len(hinted(names)) > 1 and 2 * sum(bool(hinted([name])) for name in names) >= len(names):
        raise UserError(
            f"the folders {_shown(names)} of {folder} look like splits; rename them train, validation, test."
        )
    for path in inner:
        deeper = {canonical(it.name) for it in _folders(path)} - {None}
        if len(deeper) > 1 or (deeper and len(inner) == 1):
            raise UserError(
                f"the splits of {folder} lie in its folder {path.name}; name that folder, and put splits above classes."
            )
    return {"train": folder}


def find(folder: Path, split: str) -> tuple[Part, list[str] | None, list[Path]]:
    """The part that is a split, the names of all classes in order, and the pictures of all other splits.

    A class counts if any split has it. Without folders or a list the pictures of a split have no labels.

    Raises:
        UserError: a list of labels that does not fit its pictures, or a link that leads out of the folder.
    """
    root, places = root_of(folder), splits(folder)
    parts = {name: _part(place, root) for name, place in places.items()}
    part = parts[split]
    if part.unlisted:
        raise UserError(part.unlisted)
    beside = [path for path in entries(folder) if path not in places.values()] if places[split] != folder else []
    beside = [path for path in beside if not _is_list_of_names(path)]
    report_passed(folder, part.passed + beside, "neither a picture by its suffix nor part of a class or split")
    spelling = labelling.spellings({name: it.names for name, it in parts.items()}, folder.name)
    for it in parts.values():
        it.names = {spelling[name] for name in it.names}
        it.classes = None if it.classes is None else [spelling.get(name, name) for name in it.classes]
    for name, it in parts.items():
        known = set().union(*(other.names for other in parts.values() if not other.listed))
        if it.listed and known and not it.names & known:
            raise UserError(
                f"none of the labels in {it.listed} ({_shown(sorted(it.names))}) is a class of the other splits of "
                f"{folder} ({_shown(sorted(known))}); give the {name} pictures the names of those classes."
            )
    names = labelling.in_order(set().union(*(it.names for it in parts.values())))
    others = [path for name, it in parts.items() if name != split for path in it.pictures]
    return part, names or None, others


def read(part: Part, class_names: Sequence[str] | None) -> EncodedImages:
    images = part.pictures
    batches = ([(str(path), path) for path in images[start : start + 1024]] for start in range(0, len(images), 1024))
    labels = None
    if part.classes is not None and class_names is not None:
        index = {name: i for i, name in enumerate(class_names)}
        labels = np.array([index[name] for name in part.classes], dtype=np.int64)
    return EncodedImages(batches, len(images), labels, class_names)


def pictures(folder: Path) -> list[Path]:
    """All pictures below a folder, in order, wherever they lie in it. Without any it may hold other data."""
    walk = Walk(root_of(folder))
    files = list(walk.files(folder))
    found = sorted(path for path in files if is_picture(path))
    if found:
        report_passed(
            folder, [path for path in files if not is_picture(path)] + walk.passed, "not a picture by its suffix"
        )
    return found


def check_without_pictures(folder: Path, beside: Iterable[str]) -> None:
    """Refuse pictures beside files of texts, which may list them instead of being data.

    Raises:
        UserError: a subfolder holds pictures.
    """
    for path in _folders(folder):
        if any(is_picture(file) for file in Walk(root_of(folder)).files(path)):
            raise UserError(
                f"{folder} holds texts in {_shown(beside)} and pictures in its folder {path.name}; keep one of them."
            )


def _part(place: Path, root: Path) -> Part:
    """One split's pictures, whatever labels they have."""
    part, inside = Part(), place
    while len(inner := _folders(inside)) and _is_container(inner):
        part.passed += [path for path in entries(inside) if is_picture(path)]
        part.passed += [path for path in inner if path.name.lower() not in CONTAINERS]
        inside = next(path for path in inner if path.name.lower() in CONTAINERS)
    walk = Walk(root)
    if inner:
        part.classes, part.names = [], {path.name for path in inner}
        for path in inner:
            for file in walk.files(path):
                if is_picture(file):
                    part.pictures.append(file)
                    part.classes.append(path.name)
                elif file.name != f"{path.name}_boxes.txt":
                    part.passed.append(file)
        part.passed += [path for path in entries(inside) if not path.is_dir()]
    else:
        files = list(walk.files(inside))
        part.pictures = [path for path in files if is_picture(path)]
        held = [path for path in files if not is_picture(path)]
        held += [path for path in entries(place) if path.is_file() and not is_picture(path)] if place != inside else []
        part.passed += [path for path in held if not _listed(part, path, place, inside, root)]
    part.passed += walk.passed
    return part


def _is_container(folders: Sequence[Path]) -> bool:
    named = [path for path in folders if path.name.lower() not in COMPANIONS]
    return len(named) == 1 and named[0].name.lower() in CONTAINERS


def _listed(part: Part, path: Path, place: Path, inside: Path, root: Path) -> bool:
    """Whether a file lists the labels of the part's pictures, which then has them."""
    if path.suffix.lower() not in LISTS or not part.pictures or check(path, root).st_size > LIST_BYTES:
        return False
    rows = _rows(path)
    known = {name: picture for picture in part.pictures for name in _called(picture, place, inside)}
    if not any(name in known for name in rows):
        return False
    if part.classes is not None:
        raise UserError(f"{place} holds two lists of labels, one of them {path.name}; keep one.")
    of = {known[name]: label for name, label in rows.items() if name in known}
    part.names, part.listed = set(of.values()), path.name
    part.classes = [of.get(picture, "") for picture in part.pictures]
    if missing := len(part.pictures) - len(of):
        part.unlisted = (
            f"{missing:,} of the {len(part.pictures):,} pictures of {inside} have no label in {path.name}; "
            "add their lines, or remove these pictures."
        )
    return True


def _called(picture: Path, place: Path, inside: Path) -> set[str]:
    """What a list may call a picture."""
    return {picture.relative_to(at).as_posix() for at in (place, inside)} | {picture.name}


def _rows(path: Path) -> Mapping[str, str]:
    """The first two fields of each line: a picture, and its label."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip()]
        tabs = bool(lines) and "\t" in lines[0]
        if path.suffix.lower() == ".csv" and not tabs:
            fields = list(csv.reader(lines, strict=True))
        else:
            fields = [line.split("\t" if tabs else None) for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}  # not a list, so it is reported as passed over
    labels: dict[str, str] = {}
    for row in fields:
        if len(row) > 1 and row[1].strip():
            name, label = row[0].strip().removeprefix("./"), row[1].strip()
            if labels.setdefault(name, label) != label:
                raise UserError(f"{path} gives {name} two labels, {labels[name]} and {label}; keep one.")
    return labels


def _is_list_of_names(path: Path) -> bool:
    """Whether a file is one of those that Tiny-ImageNet has beside its splits: the names of classes in words."""
    return path.name in {"wnids.txt", "words.txt"}


def _folders(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir()]


def _pictured(folder: Path) -> bool:
    return any(is_picture(path) for path in entries(folder))


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
