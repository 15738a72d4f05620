"""Where pools come from: scikit-learn's digits, folders of parquet files, images, texts or arrays, the hub."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch

from tuition.data import arrays, folders, hub, tables
from tuition.data.augment import Crop
from tuition.data.cache import cached
from tuition.data.columns import Columns, TableSplit
from tuition.data.combine import joined, named
from tuition.data.files import SHOWN, check_inside, entries, outline, root_of, state
from tuition.data.images import EncodedImages, decode, has_colours, in_grey
from tuition.data.ondisk import scratch
from tuition.data.pool import Pool, from_tensors
from tuition.data.splits import choose
from tuition.errors import UserError

SHORT_NAMES = {"cifar100": "uoft-cs/cifar100", "stanford_cars": "tanganke/stanford_cars"}

CARS_FIRST_CLASS = "AM General Hummer SUV 2000"
DIGITS_TEST = 500
DIGITS_SEED = 0

_log = logging.getLogger(__name__)


def load(
    name: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    split: str = "train",
    size: int | None = None,
    image_column: str = "auto",
    text_column: str = "auto",
    label_column: str | None = "auto",
    config: str | None = None,
    class_names: str | os.PathLike[str] | Sequence[str] | None = None,
) -> Pool:
    """One split of a data set as a pool, with its default view (`crop`) and training augmentation (`augment`).

    Args:
        name: one of the following, or a list of them, whose inputs are joined and whose classes are matched by name:

            * "digits": scikit-learn's 1,797 images of 8x8, split by a fixed seed into 1,297 for train and 500 for test;
            * a folder of parquet files in the hub's layout: `train-00000-of-00003.parquet`, `train/0000.parquet`, also
              in `data/` or in a folder named after the `config`; class names come from the hub's metadata;
            * a folder of tables: `train.csv`, `train.tsv` or `train.jsonl` with columns, `train.txt` with one text a
              line; or one such file, which is all "train". A table without texts may list images by their `path`.
              Labels are class indices, or names of classes: words, or numbers from 1;
            * a folder of images: `train/<class>/*.png`, of any suffix of Pillow; classes are those of all splits,
              in order (0, 2, 10). Without folders for splits all is "train", without folders for classes there are no
              labels, unless a list beside the images has them (`val/images`, `val/val_annotations.txt`);
            * a folder of arrays: `train.npz`, `test.npz`, with `inputs` and, if known, `labels` and `class_names`; or
              unpacked: `train/inputs.npy`, `train/labels.npy`, ..., whose inputs stay in the file if they are large;
            * "owner/name" on the Hugging Face hub, or "cifar100" or "stanford_cars" for short (the latter at size 64),
              unless a folder here has this name. It is fetched once, and later changes on the hub are not seen.
        split: "train", "test" or "validation", as the source writes them (`Train`, `val`, `dev`, `test_images`, ...).
        size: squash each picture to size x size, uncut, as the CKD paper does with Stanford Cars (64).
        image_column: of tables: images, or their paths; "auto" takes the first that the metadata calls an image, or
            `img`, `image`, `images`, `path`, `file`, `file_name`, `filename`, `filepath`, `image_path`.
        text_column: of tables without images; "auto" takes `text`, `sentence`, `content`, `document`, `review`,
            `question` or `query`; "title,body" joins two columns by a new line; "{title}: {body}" is a template.
        label_column: of tables; "auto" takes `fine_label`, `label`, `labels`, `class` or `category`, None does not look
            at labels.
        config: the configuration of a data set that has several.
        class_names: a list, or a file with one name a line: of the indices 0, 1, ..., or, where the data name their
            classes, those names in another order.

    Hidden files and what systems leave behind are skipped; other files that are not read are counted in a warning of
    the logger `tuition.data`. If one split has grey images and another has colours, all are RGB. Only regular files
    inside the folder are read, also through links.

    Decoded images are kept in a cache (see `tuition.data.cache`), from which they are mapped into memory the next time.

    Raises:
        UserError: the data or the split were not found, hold no inputs, or inputs or labels that cannot be used, or a
            path leads out of the folder.
    """
    if size is not None and size < 8:
        raise UserError(f"images are at least 8 pixels high and wide; a size of {size} is too small.")
    wish = Wish(split, size, config, Columns(image_column, text_column, label_column))
    names = [name] if isinstance(name, (str, os.PathLike)) else list(name)
    pool = joined([_one(os.fspath(it), wish) for it in names])
    if size is not None and tuple(pool.shape[-2:]) != (size, size):
        what = f"decoded images of {pool.shape[-2]} x {pool.shape[-1]}" if pool.kind == "images" else pool.kind
        raise UserError(f"{pool.name} holds {what}, which are not resized; leave out the size.")
    return _with_views(pool if class_names is None else named(pool, class_names))


def _one(name: str, wish: Wish) -> Pool:
    """One data set, wherever it is."""
    if "\0" in name:
        raise UserError(f"the data's name {name!r} holds a zero byte; correct it.")
    path = Path(name).expanduser().resolve()
    if name == "digits":
        return _digits(wish.split)
    if path.is_dir() or (path.is_file() and tables.is_table(path)):
        return _local(path, wish)
    if not path.exists() and (name in SHORT_NAMES or re.fullmatch(r"[\w.-]+/[\w.-]+", name)):
        return _of_hub(name, wish)
    if path.is_file():
        raise UserError(f"{path} is not a table (.csv, .tsv, .jsonl, .txt or .parquet); give a table or a folder.")
    near = get_close_matches(name, ["digits", *SHORT_NAMES], n=1)
    raise UserError(
        f"the data {name!r} were not found{f' (did you mean {near[0]}?)' if near else ''}; give digits, "
        "cifar100, stanford_cars, owner/name on the hub, a folder of parquet files, images, texts or arrays, or a "
        "table."
    )


@dataclass(frozen=True)
class Wish:
    """What of a data set is loaded, and how."""

    split: str
    size: int | None
    config: str | None
    columns: Columns

    def cached(self, key: str, identity: object, build: Callable[[], Pool]) -> Pool:
        """The pool that `build` makes, from the cache if it is there."""
        columns = {f"{name}_column": value for name, value in asdict(self.columns).items()}
        options = {"split": self.split, "size": self.size, "config": self.config, **columns}
        return cached(key, options, identity, build)


def read_images(paths: Sequence[str | os.PathLike[str]], *, size: int | None = None, grey: bool = False) -> Pool:
    """Image files as a pool without labels, with `grey` without colours; see `images.decode` for the rest."""
    encoded = [(str(path), Path(path)) for path in paths]
    images = decode("images", [encoded], len(encoded), size=size)
    return from_tensors(in_grey(images) if grey else images, name="images")


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
    return cached("digits", {"split": split}, [DIGITS_TEST, DIGITS_SEED], build)


def _local(path: Path, wish: Wish) -> Pool:
    """A file or folder here."""
    if path.is_file():
        return _of_tables(path.parent, {"train": [path]}, wish, path.name, path.name)
    folder = path if wish.config is None else path / wish.config
    if not folder.is_dir():
        raise UserError(f"the configuration {wish.config!r} was not found in {path}; name one of its folders, or none.")
    if files := tables.splits(folder):
        pool = _of_tables(folder, files, wish, path.name, f"{path.name} {wish.split}")
        if pool.kind == "texts":
            folders.check_without_pictures(folder, files)
        return pool
    if archives := arrays.splits(folder):
        return arrays.read(archives[choose(wish.split, archives, path.name)], f"{path.name} {wish.split}")
    return _of_folders(folder, wish, path.name)


def _of_tables(folder: Path, files: tables.Files, wish: Wish, name: str, title: str) -> Pool:
    part = choose(wish.split, files, name)
    every = [path for paths in files.values() for path in paths]
    for path in every:
        check_inside(path, root_of(folder))
    place = files[part][0].parent

    def others() -> dict[str, tables.Table]:
        return {split: tables.opened(paths) for split, paths in files.items() if split != part}

    identity: list[object] = [state(every, folder)]
    with tables.reading(place):
        chosen = TableSplit(part, tables.opened(files[part]), others, title, [place, root_of(folder)])
        identity += [state(images, folder)] if (images := chosen.files(wish.columns)) else []

    def build() -> Pool:
        with tables.reading(place):
            contents = chosen.read(wish.columns)
            if isinstance(contents, Pool):
                return contents
            pool = _decoded(contents, str(folder), name, title, wish)
            return _alike(pool, lambda: chosen.coloured_elsewhere(wish.columns))

    return wish.cached(str(folder), identity, build)


def _of_folders(folder: Path, wish: Wish, name: str) -> Pool:
    part, names, others = folders.find(folder, choose(wish.split, folders.splits(folder), name))
    if not part.pictures:
        raise UserError(_unread(folder, wish.split))
    labels = hashlib.sha256(repr((names, part.classes)).encode()).hexdigest()
    identity = [state(part.pictures, folder), outline(others, folder), labels]

    def build() -> Pool:
        pool = _decoded(folders.read(part, names), str(folder), name, f"{name} {wish.split}", wish)
        return _alike(pool, lambda: any(has_colours(path) for path in others))

    return wish.cached(str(folder), identity, build)


def _unread(folder: Path, split: str) -> str:
    """What to say of a folder that holds nothing that is read."""
    names = [path.name for path in entries(folder)]
    held = f"{', '.join(names[:SHOWN])}{' and more' if len(names) > SHOWN else ''}" if names else "nothing"
    return (
        f"{folder} holds no images in its {split} split, and no table or array named after a split (such as train.csv, "
        f".tsv, .jsonl, .txt, .parquet or .npz); it holds {held}."
    )


def _of_hub(name: str, wish: Wish) -> Pool:
    key = SHORT_NAMES.get(name, name)
    wish = replace(wish, size=64 if wish.size is None and name == "stanford_cars" else wish.size)

    def build() -> Pool:
        title = f"{name} {wish.split}"
        contents = hub.split(key, wish.split, wish.config, title).read(wish.columns)
        return contents if isinstance(contents, Pool) else _decoded(contents, key, name, title, wish)

    return wish.cached(key, None, build)  # what the hub holds is fetched once


def _decoded(contents: EncodedImages, key: str, name: str, title: str, wish: Wish) -> Pool:
    if contents.count == 0:
        raise UserError(f"{key} holds no images in its {wish.split} split; give at least one.")
    images = decode(name, contents.batches, contents.count, size=wish.size)
    return from_tensors(images, contents.labels, class_names=contents.class_names, name=title)


def _alike(pool: Pool, coloured: Callable[[], bool]) -> Pool:
    """The pool, with grey images as RGB if other splits of the data set have colours."""
    channels, *size = pool.shape
    if channels > 1 or not coloured():
        return pool
    _log.warning("the pictures of %s are grey; they are read as RGB, as other splits of this data are.", pool.name)
    images = scratch((len(pool), 3, *size), torch.uint8)
    images[:] = pool.asked_tensor()
    return replace(pool, inputs=images)


def _with_views(pool: Pool) -> Pool:
    """The pool with the default view to ask about and the default augmentation for training.

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
