"""Files of settings: read from YAML, and kept with each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuition.pipeline.settings import CommandSettings
from tuition.store import address
from tuition.training import files

CONFIG = "config.yaml"


def keep_settings(settings: CommandSettings, folder: Path) -> None:
    """Write the settings of a run to its folder, unless they are there: `--config` reads them as they are.

    They hold no password of a store, and do not say that code is trusted.
    """
    import yaml

    path = folder / CONFIG
    if path.exists():
        return
    values: dict[str, Any] = settings.model_dump(mode="json", exclude={"ask": {"trust_code"}})
    if "ask" in values:
        values["ask"]["store"] = address.without_password(values["ask"]["store"])
    files.write(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
