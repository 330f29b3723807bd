"""Small image sets as files, in the forms that the published ones have."""

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cml_jax.data import DataError, Split, cifar, known_images, mini_imagenet, vgg_flower
from support.omniglot_files import write_zip

MINI = Split(("n01532829", "n01558993"), ("n01704323",), ("n01855672",))
CIFAR = Split(("sea", "bee"), ("cup",), ("apple",))
FLOWERS = Split(("003.tulip", "001.pink primrose"), ("002.rose",), ("004.lily",))
FLOWER_LABELS = [4, 1, 3, 1, 2, 2, 3, 1, 4]  # of image_00001.jpg and so on
COUNT = 3  # pictures of a class, but of a flower
WNIDS, CIFAR_NAMES = sum(MINI, ()), sum(CIFAR, ())


def small_sets():
    """`(module, name, value)`: what makes the loaders take the small sets for the published."""
    splits = {"mini_imagenet": MINI, "cifar_fs": CIFAR, "fc100": CIFAR, "vgg_flower": FLOWERS}
    return [
        (known_images, "published_split", splits.__getitem__),
        (mini_imagenet, "_COUNT", COUNT),
        (cifar, "_COUNT", COUNT),
        (cifar, "_COUNTS", {"train": 8, "test": 4}),
        (vgg_flower, "_PICTURES", len(FLOWER_LABELS)),
        (vgg_flower, "_CLASSES", 4),
    ]


def pictures(seed, count=COUNT, height=84, width=84):
    """Smooth colours, so that JPEG hardly changes them: uint8 `[count, height, width, 3]`."""
    corners = np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), np.uint8)
    size, bilinear = (width, height), Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(c).resize(size, bilinear)) for c in corners])


def encoded(pixels, form="PNG", **options):
    """The bytes of a picture, of uint8 `[h, w, 3]` or `[h, w]`."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(stream, form, **options)
    return stream.getvalue()


def write_files(folder, files):
    """Writes `{path: content}` below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# miniImageNet.


def mini_pixels(wnid):
    return pictures(WNIDS.index(wnid))


def mini_files():
    """`{split: {path: content}}` of class folders; names are in the order of the pictures."""
    return {
        part: {
            f"{part}/{wnid}/{wnid}{i:08d}.png": encoded(image)
            for wnid in names
            for i, image in enumerate(mini_pixels(wnid))
        }
        for part, names in zip(("train", "val", "test"), MINI, strict=True)
    }


def mini_content(names):
    """What the pickle of a split holds: the classes in another order than the lists'."""
    class_dict = {wnid: [] for wnid in names}
    images = []
    for i in range(COUNT):
        for wnid in reversed(names):
            class_dict[wnid].append(len(images))
            images.append(mini_pixels(wnid)[i])
    return {"image_data": np.stack(images), "class_dict": class_dict}


def write_mini_pickles(folder, protocol=2, validation="val"):
    for part, names in zip(("train", validation, "test"), MINI, strict=True):
        content = pickle.dumps(mini_content(names), protocol)
        (folder / f"mini-imagenet-cache-{part}.pkl").write_bytes(content)


# CIFAR-100.


def cifar_pixels(name):
    """In the order of the loader: by their bytes."""
    own = pictures(10 + CIFAR_NAMES.index(name), height=32, width=32)
    return np.stack(sorted(own, key=np.ndarray.tobytes))


def cifar_records():
    """`{part: (labels, pictures)}`, classes mixed; labels count the names in alphabetical order."""
    names = sorted(CIFAR_NAMES)
    labels = np.tile(np.arange(len(names)), COUNT)
    images = np.stack([cifar_pixels(names[c])[i // len(names)] for i, c in enumerate(labels)])
    return {"train": (labels[:8], images[:8]), "test": (labels[8:], images[8:])}


def cifar_pickle(labels, images):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return {"data": planes, "fine_labels": labels.tolist(), "coarse_labels": [0] * len(labels)}


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its str."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    def save_text(self, value):
        self.save_bytes(value.encode("latin1"))

    dispatch[bytes], dispatch[str] = save_bytes, save_text


def python_2_pickle(value):
    stream = io.BytesIO()
    _Python2Pickler(stream, 2).dump(value)
    return stream.getvalue().replace(b"numpy._core.", b"numpy.core.")


def cifar_pickles(protocol=2):
    """`{path: content}` as in cifar-100-python.tar.gz."""
    files = {part: cifar_pickle(*records) for part, records in cifar_records().items()}
    files["meta"] = {"fine_label_names": sorted(CIFAR_NAMES)}
    return {
        f"cifar-100-python/{name}": pickle.dumps(content, protocol)
        for name, content in files.items()
    }


def write_cifar_pickles(folder, protocol=2):
    for name, content in cifar_pickles(protocol).items():
        (folder / Path(name).name).write_bytes(content)


def cifar_binary():
    """`{path: content}` as in cifar-100-binary.tar.gz."""
    files = {"cifar-100-binary/fine_label_names.txt": b"apple\n"}
    for part, (labels, images) in cifar_records().items():
        records = (
            struct.pack("BB", 19, label) + image.transpose(2, 0, 1).tobytes()
            for label, image in zip(labels, images, strict=True)
        )
        files[f"cifar-100-binary/{part}.bin"] = b"".join(records)
    return files


def cifar_files():
    """`{path: content}` of class folders."""
    return {
        f"cifar100/{name}/{i}.webp": encoded(image, "WEBP", lossless=True)
        for name in CIFAR_NAMES
        for i, image in enumerate(cifar_pixels(name)[::-1])
    }


# VGG-Flower.


def flower_files():
    """`{path: content}` of the photographs, of unequal shapes."""
    files = {}
    for i in range(len(FLOWER_LABELS)):
        [image] = pictures(100 + i, 1, 50 + i, 60 - i)
        files[f"jpg/image_{i + 1:05d}.jpg"] = encoded(image, "JPEG", quality=95)
    return files


def write_flowers(folder, labels=FLOWER_LABELS):
    import scipy.io

    write_tar(folder / "102flowers.tgz", flower_files())
    content = {"labels": np.array(labels, np.uint8)[None]}
    scipy.io.savemat(folder / "imagelabels.mat", content, do_compression=True)


# Archives.


def write_tar(path, files):
    """A tar.gz whose bytes are a function of the files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(gzip.compress(stream.getvalue(), mtime=0))


# A folder of the user's own.


ANIMALS = {"cat": 6, "cow": 4, "dog": 5, "hen": 3, "pig": 7}


def animal_files(size=(10, 12)):
    """`{path: content}`: classes of unequal size."""
    return {
        f"{name}/{i}.png": encoded(image)
        for seed, (name, count) in enumerate(ANIMALS.items())
        for i, image in enumerate(pictures(200 + seed, count, *size))
    }


def write_animals_zip(path):
    write_zip(path, animal_files())


def refused(match, load, *arguments, **settings):
    """Loading fails with one line, and nothing is left in the cache."""
    with pytest.raises(DataError, match=match) as caught:
        load(*arguments, **settings)
    assert "\n" not in str(caught.value)
    cache = Path(os.environ["CML_JAX_CACHE"])
    assert not cache.exists() or list(cache.iterdir()) == []


def by_class(images):
    """`{class: its pixels}` of all splits."""
    found = {}
    for part, names in images.classes._asdict().items():
        pool = images.split(part)
        for name, ids, count in zip(names, *pool.members, strict=True):
            found[name] = pool.pixels[ids[:count]]
    return found
