"""Published files through tensorflow-datasets, which knows their addresses and checksums."""

import threading
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from cml_jax.data.files import one_line
from cml_jax.data.types import DataError


def fetch(data_set: str, names: Sequence[str], folder: Path) -> list[Path]:
    """Downloads files of a tensorflow-datasets builder, without TensorFlow.

    Args:
      data_set: The name of the builder.
      names: The names of the files, as in the builder's list of checksums.
      folder: The folder to write to.

    Returns:
      The files, in the order of `names`, checked against the published checksums.

    Raises:
      DataError: There is no connection, or the bytes are not the published ones.
    """
    import tensorflow_datasets as tfds

    infos: Any = tfds.builder_cls(data_set).url_infos
    urls = {info.filename: url for url, info in infos.items()}
    # tensorflow-datasets itself retries for minutes where there is no connection.
    if problem := _unreachable(urls[names[0]], seconds=5.0):
        raise DataError(f"{urls[names[0]]} cannot be reached ({problem})")
    manager = tfds.download.DownloadManager(
        download_dir=folder, url_infos=infos, force_checksums_validation=True
    )
    try:
        # One by one: a failure among several would leave the others writing into the folder.
        return [Path(manager.download(urls[name])) for name in names]
    except Exception as error:  # whatever requests, urllib3 and tensorflow-datasets raise
        problem = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"the download failed ({problem})") from error


def _unreachable(url: str, seconds: float) -> str:
    """Why a server does not answer, or "" where it does."""
    problem = [f"no answer in {seconds:g} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                problem[0] = ""
        except (OSError, ValueError, HTTPException) as error:
            problem[0] = one_line(error)

    # A thread, because the timeout bounds neither the look-up of the name nor the redirections.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return problem[0]
