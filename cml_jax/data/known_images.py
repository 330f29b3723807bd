"""Finding and opening an image data set that the library knows by name."""

import json
import os
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cml_jax.data.cache import cached_images, prepared_images
from cml_jax.data.files import fingerprint, folders_below, one_line, search_folders
from cml_jax.data.types import DataError, Images, Split


class Source(NamedTuple):
    """A data set in some form.

    Attributes:
      paths: Its files and folders: when they change, it is converted again.
      form: What it is, for results: "class folders", for instance.
      classes: Yields every class and its images, in the order of the split.
    """

    paths: list[Path]
    form: str
    classes: Callable[[], Iterator[tuple[str, np.ndarray]]]


def published_split(name: str) -> Split:
    """The published class lists of a data set, which are stored with this library."""
    path = resources.files("cml_jax.data") / "splits" / f"{name}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Split(*(tuple(stored[part]) for part in Split._fields))


def known_images(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    find: Callable[[Path, Split], Source | None],
    *,
    size: int,
    version: int,
    resized: str,
    missing: str,
    download: Callable[[Path, Split], Source] | None = None,
) -> Images:
    """Opens a data set from the user's cache, or finds and converts it.

    Args:
      name: Of the data set, of its class lists and of its folders.
      data_dir: A folder to look in first, or None.
      find: The data set in this very folder, or None.
      size: Height and width of the images, in pixels.
      version: Of what is stored in the cache.
      resized: How pictures of another size come to it, for results.
      missing: What the user is to put where, after "... is not in ...: ".
      download: Fetches the data set into an empty folder, where that is possible.

    Raises:
      DataError: The data set is nowhere, or what is there is not this data set.
    """
    split = published_split(name)
    folder_name = f"{name}-{size}-v{version}"

    def converted(source: Source) -> Images:
        notes = {"from": source.form, "size": size, "resized": resized}
        mark = fingerprint(source.paths)
        return cached_images(folder_name, name, split, mark, source.classes, notes)

    looked_in = search_folders(data_dir, name)
    for place in looked_in:
        if prepared := prepared_images(place / folder_name, name, split):
            return prepared
        for folder in folders_below(place):
            if source := find(folder, split):
                return converted(source)
    where = ", ".join(map(str, looked_in))
    if download is None:
        raise DataError(f"{name} is not in {where}: {missing}")
    import tempfile

    with tempfile.TemporaryDirectory(prefix=f"cml_jax-{name}-") as temporary:
        try:
            source = download(Path(temporary), split)
        except DataError as error:
            raise DataError(f"{name} is not in {where}, and {error}: {missing}") from error
        return converted(source)


def tfds_examples(folder: Path, version: str, example_split: str) -> Iterator[dict[str, Any]]:
    """The examples of a folder of tensorflow-datasets, their images as they are stored.

    Args:
      folder: The data set's own, such as `ROOT/cifar100`.
      version: The name of the folder within it.
      example_split: Such as "train+test".

    Raises:
      DataError: tensorflow-datasets cannot read it.
    """
    import tensorflow_datasets as tfds

    try:
        # The builder's code: builder_from_directory imports what features.json in the folder names.
        builder: Any = tfds.builder_cls(folder.name)(data_dir=folder.parent, version=version)
        options = {"split": example_split, "decoders": {"image": tfds.decode.SkipDecoding()}}
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            yield from builder.as_data_source(**options)
        else:
            yield from tfds.as_numpy(builder.as_dataset(**options))  # needs TensorFlow
    except Exception as error:  # whatever tensorflow-datasets raises
        raise DataError(
            f"tensorflow-datasets cannot read {folder} ({one_line(error)}): install "
            "tensorflow-cpu, or put the data set there in another form"
        ) from error


def in_place(folder: Path, name: str, version: str) -> bool:
    """Whether a folder is that of a tensorflow-datasets data set."""
    return folder.name == name and (folder / version / "dataset_info.json").is_file()
