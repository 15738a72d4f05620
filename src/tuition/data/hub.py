"""Data sets of the Hugging Face hub, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuition.data.columns import TableSplit
from tuition.data.splits import choose
from tuition.data.tables import ArrowTable
from tuition.errors import UserError, first_line


def split(name: str, chosen: str, config: str | None, title: str) -> TableSplit:
    """One split of the data set `name`; its files alone are fetched, with progress on stderr.

    The other splits are fetched only where classes are not named in the metadata, because any split may have them.

    Raises:
        UserError: the hub cannot be reached, or has no such data set, configuration or split.
    """
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=10)  # says at once what `datasets` says after half a minute of retries
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name!r} was not found, here or on the hub; check the name, or log in if it is private."
        ) from error
    except Exception as error:  # what it is depends on the version of the HTTP client
        raise UserError(
            f"{name!r} was not found here, and the hub cannot be reached ({first_line(error)}); "
            "connect, or give a folder of its files."
        ) from error
    with _loading(name):
        builder = datasets.load_dataset_builder(name, config)
        files = {str(part): paths for part, paths in builder.config.data_files.items()}
    part = choose(chosen, files, name)

    def fetched(one: str) -> ArrowTable:
        import pyarrow.dataset

        with _loading(name):
            loaded = datasets.load_dataset(
                builder.name, data_files={one: files[one]}, features=builder.info.features, split=one
            )
        return ArrowTable(name, pyarrow.dataset.dataset(loaded.data.table))

    return TableSplit(part, fetched(part), lambda: {it: fetched(it) for it in files if it != part}, title, _caches())


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the hub, the network, the disk or the files: nothing here can be fixed by code
        raise UserError(f"cannot load {name!r} from the hub ({first_line(error)}); fix that and try again.") from error


def _caches() -> list[Path]:
    """Where `datasets` puts the files that it fetches, which rows of a data set of files name."""
    import datasets.config
    import huggingface_hub.constants

    places = (
        datasets.config.DOWNLOADED_DATASETS_PATH,
        datasets.config.HF_DATASETS_CACHE,
        huggingface_hub.constants.HF_HUB_CACHE,
    )
    return [Path(place) for place in places]
