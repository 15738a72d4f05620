"""Data sets of the Hugging Face hub, through `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuition.data import parquet
from tuition.data.images import EncodedImages
from tuition.data.pool import Pool
from tuition.data.splits import choose
from tuition.errors import UserError


def read(name: str, split: str, config: str | None, **columns: Any) -> EncodedImages | Pool:
    """One split of the data set `name`; only the files of that split are fetched, with progress on stderr.

    Raises:
        UserError: the hub cannot be reached, or has no such data set, configuration or split.
    """
    import datasets
    import pyarrow.dataset
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=10)  # says at once what `datasets` says after half a minute of retries
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name!r} is no folder here, and no data set of the hub (or a private one); check the name, or log in."
        ) from error
    except Exception as error:  # what it is depends on the version of the HTTP client
        raise UserError(
            f"{name!r} is no folder here, and the hub cannot be reached for it ({_line(error)}); "
            "connect, or give a folder of its files."
        ) from error
    try:
        builder = datasets.load_dataset_builder(name, config)
        files = {str(part): paths for part, paths in builder.config.data_files.items()}
        part = choose(split, files, name)
        found = datasets.load_dataset(
            builder.name, data_files={part: files[part]}, features=builder.info.features, split=part
        )
    except UserError:
        raise
    except Exception as error:  # of the hub, the network, the disk or the files: nothing here can be mended by code
        raise UserError(f"cannot load {name!r} from the hub ({_line(error)}); mend that and try again.") from error
    table = pyarrow.dataset.dataset(found.data.table)
    return parquet.contents(table, None, name, f"{name} {split}", _caches(), **columns)


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


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
