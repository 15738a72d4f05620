"""Where pools come from: scikit-learn's digits, folders of parquet files, images, texts or arrays, the hub."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuition.data import arrays, folders, hub, parquet, texts
from tuition.data.augment import Crop
from tuition.data.cache import cached, scratch
from tuition.data.files import check_inside, outline, root_of, state
from tuition.data.images import EncodedImages, decode
from tuition.data.pictures import has_colours
from tuition.data.pool import Pool, from_tensors
from tuition.data.splits import choose
from tuition.errors import UserError

SHORT_NAMES = {"cifar100": "uoft-cs/cifar100", "stanford_cars": "tanganke/stanford_cars"}

CARS_FIRST_CLASS = "AM General Hummer SUV 2000"
DIGITS_TEST = 500
DIGITS_SEED = 0

_log = logging.getLogger(__name__)


def load(
    name: str | os.PathLike[str],
    *,
    split: str = "train",
    size: int | None = None,
    image_column: str = "auto",
    text_column: str = "auto",
    label_column: str | None = "auto",
    config: str | None = None,
) -> Pool:
    """One split of a data set as a pool, with its usual view (`crop`) and training augmentation (`augment`).

    Args:
        name: one of

            * "digits": scikit-learn's 1,797 images of 8x8, split by a fixed seed into 1,297 for train and 500 for test;
            * a folder of parquet files in the hub's layout: `train-00000-of-00003.parquet`, also in `data/` or in a
              folder named after the `config`; class names come from the metadata of the hub's files;
            * a folder of images: `train/<class>/*.png`, of any suffix of Pillow; classes are those of all splits,
              in order (0, 2, 10). Without folders for splits all is "train", without folders for classes there are no
              labels, unless a list beside the images has them (`val/images`, `val/val_annotations.txt`);
            * a folder of arrays: `train.npz`, `test.npz`, with `inputs` and, if known, `labels` and `class_names`; or
              unpacked: `train/inputs.npy`, `train/labels.npy`, ..., whose inputs stay in the file if they are large;
            * a folder of texts: `train.txt` with one a line, or `train.csv` or `train.jsonl` with columns; or such a
              file, which is all "train". Labels are class indices, or names of classes: words, or numbers from 1;
            * "owner/name" on the Hugging Face hub, or "cifar100" or "stanford_cars" for short (the latter at size 64),
              unless there is such a folder here. It is fetched once, whatever becomes of it on the hub.
        split: "train", "test" or "validation", as the source writes them (`Train`, `val`, `dev`, `test_images`, ...).
        size: squash each picture, whole, to size x size, as the CKD paper does with Stanford Cars (64).
        image_column: of parquet; "auto" takes the first that the metadata calls an image, or `img`, `image`, `images`.
        text_column: of parquet without images, csv and jsonl; "auto" takes `text`, `sentence`, `content`, `document`,
            `review`, `question` or `query`; "title,body" joins two columns by a new line.
        label_column: of parquet, csv and jsonl; "auto" takes `fine_label`, `label` or `labels` (of text also `class`
            or `category`, if any), None does not look at labels.
        config: the configuration of a data set that has several.

    Hidden files and what systems leave behind are skipped; other files that are not read are counted in a warning of
    the logger `tuition.data`. If one split has grey images and another has colours, all are RGB. Only regular files
    inside the folder are read, also through links.

    Decoded images are kept in a cache (see `tuition.data.cache`), from which they are mapped into memory the next time.

    Raises:
        UserError: nothing of that name, no such split, no images, images or labels that cannot be used, or a path that
            leads out of the folder.
    """
    if size is not None and size < 8:
        raise UserError(f"images are at least 8 pixels high and wide; a size of {size} is too small.")
    name = os.fspath(name)
    if "\0" in name:
        raise UserError(f"the data's name {name!r} holds a zero byte; correct it.")
    if name == "digits":
        return _digits(split)
    columns: dict[str, Any] = {"image_column": image_column, "text_column": text_column, "label_column": label_column}
    path = Path(name).expanduser().resolve()
    build: Callable[[], Pool]
    identity: object
    if not path.exists() and (name in SHORT_NAMES or re.fullmatch(r"[\w.-]+/[\w.-]+", name)):
        key, identity = SHORT_NAMES.get(name, name), None  # what the hub holds is fetched once
        size = 64 if size is None and name == "stanford_cars" else size
        build = partial(_from_hub, key, name, split, config, size, columns)
    elif path.is_dir():
        key, name = str(path), path.name
        if files := texts.splits(path):
            folders.check_without_pictures(path, files)
            file = files[choose(split, files, name)]
            title = f"{name} {split}"
            return texts.read(file, files.values(), title, text_column=text_column, label_column=label_column)
        if files := arrays.splits(path):
            return _usual_views(arrays.read(files[choose(split, files, name)], f"{name} {split}"))
        if config is not None:
            path = path / config
        if not path.is_dir():
            raise UserError(f"there is no configuration {config!r} in {path.parent}; name one of its folders, or none.")
        place = parquet.find(path)
        identity, build = (
            _of_pictures(path, name, split, size)
            if place is None
            else _of_parquet(place, path, name, split, size, columns)
        )
    elif texts.is_text(path) and path.is_file():
        choose(split, ("train",), path.name)
        return texts.read(path, [path], path.name, text_column=text_column, label_column=label_column)
    else:
        near = get_close_matches(name, ["digits", *SHORT_NAMES], n=1)
        raise UserError(
            f"there is no data set and no folder {name!r}{f' (did you mean {near[0]}?)' if near else ''}; give digits, "
            "cifar100, stanford_cars, owner/name on the hub, or a folder of parquet files, images, texts or arrays."
        )
    return _usual_views(cached(key, {"split": split, "size": size, "config": config, **columns}, identity, build))


def _digits(split: str) -> Pool:
    choose(split, ("train", "test"), "digits")

    def build() -> Pool:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        pool = from_tensors(images, digits.target, class_names="0123456789", name=f"digits {split}")
        test, train = pool.split(DIGITS_TEST, seed=DIGITS_SEED, stratified=True)
        return train if split == "train" else test

    # Importing scikit-learn takes seconds, which many short runs would notice.
    return _usual_views(cached("digits", {"split": split}, [DIGITS_TEST, DIGITS_SEED], build))


def _from_hub(key: str, name: str, split: str, config: str | None, size: int | None, columns: dict[str, Any]) -> Pool:
    found = hub.read(key, split, config, **columns)
    return found if isinstance(found, Pool) else _decoded(found, key, name, split, size)


def _of_parquet(
    place: Path, folder: Path, name: str, split: str, size: int | None, columns: dict[str, Any]
) -> tuple[object, Callable[[], Pool]]:
    """What identifies the state of parquet files in `place`, and how to make a pool of them."""
    shards = parquet.splits(place)
    part = choose(split, shards, folder.name)
    roots = [place, root_of(folder)]

    def build() -> Pool:
        with parquet.opened(shards, part) as (table, others):
            found = parquet.contents(table, others, str(place), f"{folder.name} {split}", roots, **columns)
            if isinstance(found, Pool):
                return found
            pool = _decoded(found, str(folder), name, split, size)
            column = columns["image_column"]
            return _alike(pool, any(parquet.any_colours(it, str(place), column, roots) for it in others))

    every = [path for paths in shards.values() for path in paths]
    for path in every:
        check_inside(path, root_of(folder))
    return state(every, place), build


def _of_pictures(folder: Path, name: str, split: str, size: int | None) -> tuple[object, Callable[[], Pool]]:
    """The same of a folder of images."""
    part, names, others = folders.find(folder, choose(split, folders.splits(folder), folder.name))

    def build() -> Pool:
        pool = _decoded(folders.read(part, names), str(folder), name, split, size)
        return _alike(pool, any(has_colours(path) for path in others))

    labels = hashlib.sha256(repr((names, part.classes)).encode()).hexdigest()
    return [state(part.pictures, folder), outline(others, folder), labels], build


def _decoded(found: EncodedImages, key: str, name: str, split: str, size: int | None) -> Pool:
    if found.count == 0:
        raise UserError(f"{key} holds no images in its {split} split; give at least one.")
    images = decode(name, found.batches, found.count, size=size)
    return from_tensors(images, found.labels, class_names=found.class_names, name=f"{name} {split}")


def _alike(pool: Pool, coloured: bool) -> Pool:
    """The pool, with grey images as RGB if other splits of the data set have colours."""
    channels, *size = pool.shape
    if channels > 1 or not coloured:
        return pool
    _log.warning("the pictures of %s are grey; they are read as RGB, as other splits of this data are.", pool.name)
    images = scratch((len(pool), 3, *size), torch.uint8)
    images[:] = pool.asked_tensor()
    return replace(pool, inputs=images)


def _usual_views(pool: Pool) -> Pool:
    """The pool with the view it is usually asked about, and the augmentation it is usually trained with.

    Shifts by an eighth of the side (4 of 32) and flips, but no flips of grey images: they may be characters. Stanford
    Cars at 64 pixels, known by its classes wherever its files lie, is cropped to 56 (Xu et al., WACV 2025).
    """
    if pool.kind != "images":
        return pool
    channels, height, width = pool.shape
    if (height, width) == (64, 64) and pool.class_names is not None and pool.class_names[0] == CARS_FIRST_CLASS:
        crop = Crop(padding=0, size=56)
        return replace(pool, crop=crop, augment=crop)
    return replace(pool, augment=Crop(padding=min(height, width) // 8, flip=channels > 1))
