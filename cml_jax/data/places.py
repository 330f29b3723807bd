"""Where data is looked for, and where the prepared arrays are kept."""

import os
from pathlib import Path

from cml_jax.data.types import DataError


def cache_dir() -> Path:
    """The user's cache: `$CML_JAX_CACHE`, `$XDG_CACHE_HOME/cml_jax` or `~/.cache/cml_jax`."""
    if own := os.environ.get("CML_JAX_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cml_jax"


def search_folders(data_dir: str | os.PathLike[str] | None, data_set: str) -> list[Path]:
    """The folders to look in, best first: `data_dir`, `$CML_JAX_DATA`, the user's cache.

    Args:
      data_dir: a folder, or None.
      data_set: each folder's sub-folder of this name is looked into right after the folder.

    Returns:
      The folders; those of the cache may not exist.

    Raises:
      DataError: a folder that the user named does not exist.
    """
    named = {"data_dir": data_dir, "CML_JAX_DATA": os.environ.get("CML_JAX_DATA")}
    folders = []
    for name, value in named.items():
        if value:
            folder = Path(value).expanduser()
            if not folder.is_dir():
                raise DataError(f"{name}={value} is not a folder: correct it or leave it out")
            folders.append(folder)
    return [place for folder in [*folders, cache_dir()] for place in (folder, folder / data_set)]
