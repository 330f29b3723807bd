"""The loaders of data: a new one is one line of `TARGETS`."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cml_jax import data
from cml_jax.data import cifar, graphs, omniglot, vgg_flower
from cml_jax.data import folder as image_folder
from cml_jax.data import pictures as decoding
from cml_jax.data.cache import read_images, write_images
from cml_jax.data.class_lists import read_class_lists
from cml_jax.data.formats import decode_png
from support import graph_files, image_files, omniglot_files
from support.fuzz.archives import bad_array, bad_pickle, hostile_tar, hostile_zip, wrong_claims
from support.fuzz.damages import ANY, bad_csv, bad_json, files, flip, noise, number, truncate
from support.fuzz.harness import Target, digest
from support.fuzz.pictures import bad_image


def _make_omniglot_folders(folder: Path) -> None:
    for members in omniglot_files.small_files().values():
        for name, content in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def _read_omniglot(folder: Path) -> str:
    """The arrays; and the cache holds all of them or nothing."""
    omniglot._split = lambda: omniglot_files.SMALL
    # 50,000 members take seconds to write.
    omniglot._LIMITS = omniglot._LIMITS._replace(files=1000)
    cache = folder.parent / "cache"
    os.environ["CML_JAX_CACHE"] = str(cache)
    try:
        splits = omniglot.load_omniglot(folder)
    finally:
        left = sorted(p.name for p in cache.iterdir()) if cache.exists() else []
        assert left in ([], ["omniglot-v2"]), f"the cache has {left}"
    made = [p.name for p in (cache / left[0]).iterdir()]
    assert len(made) == 2 and "images.json" in made, f"the cache has {made}"
    return digest(splits.pixels, *splits.members) + splits.split_hash


def _make_png(folder: Path) -> None:
    (folder / "a.png").write_bytes(omniglot_files.png(3))


def _read_png(folder: Path) -> str:
    # As read_folder hands it over: never more than a drawing may have.
    with open(folder / "a.png", "rb") as file:
        return digest(np.asarray(decode_png(file.read(1 << 14), (105, 105), "a.png")))


def _make_cache(folder: Path) -> None:
    classes = [(name, np.full((3, 8, 9, 1), i, np.uint8)) for i, name in enumerate("abcd")]
    write_images(folder, "animals", data.Split(("a", "b"), ("c",), ("d",)), "source", classes)


def _read_cache(folder: Path) -> str:
    images, source = read_images(folder)
    return digest(images.pixels, *images.members) + str((images[2:], source))


def _make_graph(folder: Path) -> None:
    graph_files.write(folder / "own.npz")


def _read_graph(folder: Path) -> str:
    return _graph_digest(data.read_graph(folder / "own.npz"))


def _read_planetoid(folder: Path) -> str:
    graphs._KNOWN["cora"] = graphs._KNOWN["cora"]._replace(nodes=6, features=2)
    return _graph_digest(data.load_graph("cora", folder))


def _graph_digest(graph: Any) -> str:
    """Of a graph whose parts fit together."""
    n = len(graph.labels)
    assert graph.adjacency.shape == (n, n) and len(graph.smoothed) == n
    assert graph.labels.dtype.kind == "i" and graph.labels.min() >= -1
    for matrix in (graph.adjacency, graph.features):
        for index, size in zip((matrix.rows, matrix.columns), matrix.shape, strict=True):
            assert not len(index) or (index.min() >= 0 and index.max() < size)
    return digest(graph.labels, graph.smoothed, graph.adjacency.values, graph.features.values)


def _make_class_split(folder: Path) -> None:
    text = json.dumps({"train": [0, 1], "validation": [2], "test": [3]})
    (folder / "split.json").write_text(text)


def _read_class_split(folder: Path) -> Any:
    return data.read_class_split(folder / "split.json")


def _is_class_split(split: Any, _: Any) -> bool:
    """A changed digit is another class, which nothing here can tell."""
    classes = [c for part in split for c in part]
    return len(set(classes)) == len(classes) and all(type(c) is int and c >= 0 for c in classes)


def _make_pictures(folder: Path) -> None:
    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        [pixels] = image_files.pictures(0, 1, 20, 30)
        (folder / f"a.{form.lower()}").write_bytes(image_files.encoded(pixels, form))


def _read_pictures(folder: Path) -> int:
    decoding._MAX_PIXELS = 1 << 22  # of 64 megapixels there is no room in a case
    for path in files(folder):
        picture = decoding.decode_picture(path.read_bytes(), str(path), 8)
        assert picture.shape == (8, 8, 3) and picture.dtype.name == "uint8"
    return len(files(folder))


def _make_animals(folder: Path) -> None:
    image_files.write_files(folder, image_files.animal_files())


def _make_animals_zip(folder: Path) -> None:
    image_files.write_animals_zip(folder / "a.zip")


def _read_animals(folder: Path) -> Any:
    return _images(data.load_folder, folder, size=8)


def _read_animals_zip(folder: Path) -> Any:
    image_folder.LIMITS = image_folder.LIMITS._replace(files=1000)
    return _images(data.load_folder, folder / "a.zip", size=8)


def _make_cifar_tar(folder: Path) -> None:
    image_files.write_tar(folder / "cifar-100-binary.tar.gz", image_files.cifar_binary())


def _make_cifar_tar_of_pickles(folder: Path) -> None:
    image_files.write_tar(folder / "cifar-100-python.tar.gz", image_files.cifar_pickles())


def _known(load: str) -> Callable[[Path], Any]:
    """A loader of `cml_jax.data` that takes the small sets for the published ones."""

    def offline(*_: Any, **__: Any) -> Any:
        raise data.DataError("there is no network")

    def read(folder: Path) -> Any:
        for module, name, value in image_files.small_sets():
            setattr(module, name, value)
        cifar._download = vgg_flower._download = offline
        limits = {"files": 200, "total_bytes": 4 << 20}
        cifar._LIMITS = cifar._LIMITS._replace(**limits)
        vgg_flower._TAR_LIMITS = vgg_flower._TAR_LIMITS._replace(**limits)
        return _images(getattr(data, load), folder)

    return read


def _images(load: Callable[..., Any], folder: Path, **settings: Any) -> dict[str, Any]:
    """What was loaded, whose parts fit together; the cache holds all of it or nothing."""
    cache = folder.parent / ("cache" if folder.is_dir() else "../cache")
    os.environ["CML_JAX_CACHE"] = str(cache)
    tempfile.tempdir = str(cache.parent)
    os.cpu_count = lambda: 2  # each thread takes some of the memory of a case
    try:
        images = load(folder, **settings)
    except BaseException:
        left = [p.name for p in cache.iterdir()] if cache.exists() else []
        assert left == [], f"the cache has {left}"
        raise
    [made] = cache.iterdir()
    names = [p.name for p in made.iterdir()]
    assert len(names) == 2 and "images.json" in names, f"the cache has {names}"
    ids, counts = images.members
    names = [name for part in images.classes for name in part]
    assert images.pixels.dtype.name == "uint8" and images.pixels.shape[3] == 3
    assert len(set(names)) == len(names) == len(ids) and counts.sum() == len(images.pixels)
    assert counts.min() > 0 and ids.min() >= 0 and ids.max() < len(images.pixels)
    return {
        "all": digest(images.pixels, *images.members) + images.split_hash,
        "pictures": sorted(digest(image) for image in images.pixels),
    }


def _fits(read: Any, _: Any) -> bool:
    """No checksum: of a changed digit or pixel, what was read has seen that its parts fit."""
    return bool(read)


def _same_pictures(read: Any, good: Any) -> bool:
    """A changed label is another class, which nothing here can tell."""
    return read["pictures"] == good["pictures"]


def _make_class_lists(folder: Path) -> None:
    lists = {"train": ["cat", "dog"], "validation": ["cow"], "test": ["hen"]}
    (folder / "split.json").write_text(json.dumps(lists))
    rows = [f"{name},{part}" for part, names in lists.items() for name in names]
    (folder / "split.csv").write_text("\n".join(["class,split", *rows, ""]))


def _read_class_lists(folder: Path) -> Any:
    return [read_class_lists(folder / f"split.{form}") for form in ("json", "csv")]


def _are_class_lists(splits: Any, _: Any) -> bool:
    """A changed letter is another class, which nothing here can tell."""
    names = [[name for part in split for name in part] for split in splits]
    assert all(type(name) is str for own in names for name in own)
    unique = all(len(set(own)) == len(own) for own in names)
    return unique and all(part for split in splits for part in split)


_WRONG = ("DataError",)
_PLAIN = (truncate, flip, noise, number, bad_image)
_ZIP, _TAR = (*ANY, hostile_zip, wrong_claims), (*ANY, hostile_tar)
_PICKLE, _JSON = (*ANY, bad_pickle), (*ANY, bad_json)
_IMAGE, _IMAGE_ZIP = (*ANY, bad_image), (*_ZIP, bad_image)
_ARRAY, _LISTS = (*_ZIP, bad_array), (*_JSON, bad_csv)
_cifar, _flowers = _known("load_cifar_fs"), _known("load_vgg_flower")
_mini, _write_flowers = _known("load_mini_imagenet"), image_files.write_flowers
TARGETS = {
    "omniglot zips": Target(omniglot_files.write_zips, _read_omniglot, _WRONG, 160, _IMAGE_ZIP),
    "omniglot folders": Target(_make_omniglot_folders, _read_omniglot, _WRONG, 90, _IMAGE),
    "png": Target(_make_png, _read_png, _WRONG, 150, _PLAIN),
    "cache": Target(_make_cache, _read_cache, _WRONG, 200, _JSON),
    "graph": Target(_make_graph, _read_graph, _WRONG, 160, _ARRAY),
    "planetoid": Target(graph_files.write_planetoid, _read_planetoid, _WRONG, 160, _PICKLE, _fits),
    "class split": Target(_make_class_split, _read_class_split, _WRONG, 80, _JSON, _is_class_split),
    "pictures": Target(_make_pictures, _read_pictures, _WRONG, 200, _PLAIN),
    "folder": Target(_make_animals, _read_animals, _WRONG, 110, _IMAGE, _fits),
    "folder zip": Target(_make_animals_zip, _read_animals_zip, _WRONG, 130, _IMAGE_ZIP, _fits),
    "mini pickles": Target(image_files.write_mini_pickles, _mini, _WRONG, 110, _PICKLE, _fits),
    "cifar pickles": Target(image_files.write_cifar_pickles, _cifar, _WRONG, 110, _PICKLE, _fits),
    "cifar tar": Target(_make_cifar_tar, _cifar, _WRONG, 130, _TAR),
    "cifar tar of pickles": Target(_make_cifar_tar_of_pickles, _cifar, _WRONG, 60, _TAR, _fits),
    "flowers": Target(_write_flowers, _flowers, _WRONG, 130, _TAR, _same_pictures),
    "class lists": Target(
        _make_class_lists, _read_class_lists, _WRONG, 120, _LISTS, _are_class_lists
    ),
}
