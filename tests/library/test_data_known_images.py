"""miniImageNet, CIFAR-FS, FC100 and VGG-Flower: small sets in every form; the real ones."""

import io
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import image_files
from support.image_files import (
    CIFAR,
    CIFAR_NAMES,
    COUNT,
    FLOWER_LABELS,
    FLOWERS,
    MINI,
    WNIDS,
    by_class,
    cifar_binary,
    cifar_files,
    cifar_pickle,
    cifar_pixels,
    cifar_records,
    encoded,
    flower_files,
    mini_content,
    mini_files,
    mini_pixels,
    refused,
    small_sets,
    write_cifar_pickles,
    write_files,
    write_flowers,
    write_mini_pickles,
    write_tar,
)
from support.omniglot_files import write_zip

from cml_jax.data import (
    cifar,
    load_cifar_fs,
    load_fc100,
    load_mini_imagenet,
    load_vgg_flower,
    mini_imagenet,
)
from cml_jax.data.known_images import published_split
from cml_jax.data.pictures import decode_picture
from cml_jax.data.types import split_hash

pytestmark = pytest.mark.usefixtures("apart")

REAL = Path(os.environ.get("CML_JAX_DATA") or "/nowhere")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """An empty folder; the loaders take the small sets for the whole."""
    for module, name, value in small_sets():
        monkeypatch.setattr(module, name, value)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


# The class lists.


@pytest.mark.parametrize(
    "name, counts, digest",
    [
        ("mini_imagenet", [64, 16, 20], "688812fa5e7544ba"),
        ("cifar_fs", [64, 16, 20], "5b841c628a83fd47"),
        ("fc100", [60, 20, 20], "13688fae5b65106f"),
        ("vgg_flower", [71, 15, 16], "516304002a140da4"),
    ],
)
def test_published_class_lists(name, counts, digest):
    split = published_split(name)
    assert [len(part) for part in split] == counts
    assert len(set(sum(split, ()))) == sum(counts)
    assert split_hash(split) == digest


def test_cifar_fs_and_fc100_are_of_the_same_classes():
    assert set(sum(published_split("cifar_fs"), ())) == set(sum(published_split("fc100"), ()))


def test_flowers_are_numbered():
    numbers = sorted(int(name[:3]) for name in sum(published_split("vgg_flower"), ()))
    assert numbers == list(range(1, 103))


# miniImageNet.


def splits(form="{}/{}/{}", validation="val", suffix=".png"):
    """Class folders, with names that `form` makes of split, class and picture."""

    def write(folder):
        for part, files in mini_files().items():
            for name, content in files.items():
                _, wnid, picture = name.split("/")
                part = validation if part == "val" else part
                path = form.format(part, wnid, picture).replace(".png", suffix)
                write_files(folder, {path: content})

    return write


def split_zips(validation="val", front=""):
    def write(folder):
        for part, files in mini_files().items():
            part = validation if part == "val" else part
            write_zip(folder / f"{part}.zip", {front + name: x for name, x in files.items()})

    return write


def one_zip(name, form):
    def write(folder):
        files = {}
        for part, own in mini_files().items():
            for path, content in own.items():
                files[form.format(part, *path.split("/")[1:])] = content
        write_zip(folder / name, files)

    return write


def pickles(protocol=2, validation="val"):
    return lambda folder: write_mini_pickles(folder, protocol, validation)


MINI_FORMS = {
    "pickles": pickles(),
    "pickles of protocol 4": pickles(4),
    "pickles of protocol 5": pickles(5),
    "pickles, validation": pickles(validation="validation"),
    "folders": splits(),
    "folders, validation": splits(validation="validation"),
    "folders, PNG": splits(suffix=".PNG"),
    "folders below": splits("a/b/{}/{}/{}"),
    "folders without splits": splits("all/{1}/{2}"),
    "sub-folder": splits("mini_imagenet/{}/{}/{}"),
    "flat folder": splits("images/{2}"),
    "zips": split_zips(),
    "zips, validation": split_zips("validation"),
    "zips with a front": split_zips(front="mini/"),
    "zip of images": one_zip("images.zip", "images/{2}"),
    "one zip": one_zip("miniImageNet.zip", "x/{0}/{1}/{2}"),
    "one flat zip": one_zip("mini-imagenet.zip", "images/{2}"),
}


@pytest.mark.parametrize("form", MINI_FORMS)
def test_forms_of_mini_imagenet(small, form):
    MINI_FORMS[form](small)
    images = load_mini_imagenet(small)
    assert images.pixels.shape == (4 * COUNT, 84, 84, 3) and images.pixels.dtype == np.uint8
    assert images.classes == MINI and images.split_hash == split_hash(MINI)
    for wnid, own in by_class(images).items():
        np.testing.assert_array_equal(own, mini_pixels(wnid))
    assert images.notes["from"].split()[0].rstrip("s") in form
    assert images.notes["resized"] == "squashed" and images.notes["identical_in_class"] == 0


def test_names_as_imagenet_has_them(small):
    """`n01532829_17.JPEG`, in one folder."""
    for wnid in WNIDS:
        own = {f"images/{wnid}_{i}.JPEG": encoded(x) for i, x in enumerate(mini_pixels(wnid))}
        write_files(small, own)
    for wnid, own in by_class(load_mini_imagenet(small)).items():
        np.testing.assert_array_equal(own, mini_pixels(wnid))


@pytest.mark.parametrize("form", ["pickles", "folders"])
def test_mini_imagenet_at_another_size(small, form):
    MINI_FORMS[form](small)
    images = load_mini_imagenet(small, size=32)
    lanczos = Image.Resampling.LANCZOS
    for wnid, own in by_class(images).items():
        expected = [Image.fromarray(x).resize((32, 32), lanczos) for x in mini_pixels(wnid)]
        np.testing.assert_array_equal(own, np.stack(expected))
    assert images.notes["size"] == 32
    assert load_mini_imagenet(small).pixels.shape[1:] == (84, 84, 3)  # each size has its cache


def test_the_cache_and_where_it_is_found(small, monkeypatch, tmp_path):
    MINI_FORMS["zips"](small)
    monkeypatch.setenv("CML_JAX_DATA", str(small))
    pixels = load_mini_imagenet().pixels.copy()
    shutil.rmtree(small)
    monkeypatch.delenv("CML_JAX_DATA")
    np.testing.assert_array_equal(load_mini_imagenet().pixels, pixels)
    (tmp_path / "cache/mini_imagenet-84-v1").rename(tmp_path / "mini_imagenet-84-v1")
    np.testing.assert_array_equal(load_mini_imagenet(tmp_path).pixels, pixels)
    assert list((tmp_path / "cache").iterdir()) == []


def test_mini_imagenet_that_is_nowhere_or_in_part(small):
    message = r"mini_imagenet is not in .*data, .*: put there train.zip, val.zip and test.zip \("
    refused(message, load_mini_imagenet, small)
    MINI_FORMS["zips"](small)
    (small / "test.zip").unlink()
    refused(message, load_mini_imagenet, small)
    refused("data_dir=.* is not a folder", load_mini_imagenet, small / "missing")


def test_a_class_of_mini_imagenet_that_is_not_complete(small):
    MINI_FORMS["folders"](small)
    write_files(small, {"val/notes.txt": b"x"})
    next((small / "val" / WNIDS[2]).iterdir()).unlink()
    refused(
        r"data has 3 of 4 classes complete: 'n01704323' has 2 pictures, expected 3; of 1 "
        r"other files one is 'notes.txt': replace it",
        load_mini_imagenet,
        small,
    )


def test_a_bad_picture_of_mini_imagenet_is_named(small):
    MINI_FORMS["zips"](small)
    name = f"val/{WNIDS[2]}/{WNIDS[2]}00000001.png"
    write_zip(small / "val.zip", mini_files()["val"] | {name: b"GIF89a"})
    refused(rf"data/val.zip/{name} is not a readable picture", load_mini_imagenet, small)


def test_a_zip_that_leads_outside(small):
    MINI_FORMS["zips"](small)
    write_zip(small / "val.zip", mini_files()["val"] | {f"../{WNIDS[2]}/1.png": b""})
    refused("val.zip has a member with the unsafe name", load_mini_imagenet, small)


def spoilt(**changes):
    """The pickle of the validation classes with other parts."""
    content = mini_content(MINI.validation)
    return {name: x for name, x in (content | changes).items() if x is not None}


class Code:
    def __reduce__(self):
        return os.system, ("touch escaped",)


IDS = mini_content(MINI.validation)["class_dict"][WNIDS[2]]
PICTURES = mini_content(MINI.validation)["image_data"]


@pytest.mark.parametrize(
    "content, message",
    [
        (Code(), r"is not a pickle of plain arrays \(asks for posix.system\): replace it"),
        (spoilt(more=Path("x")), r"is not a pickle of plain arrays \(asks for pathlib"),
        (spoilt(image_data=None), "does not hold image_data, uint8 .n, 84, 84, 3., and class_dict"),
        (spoilt(image_data=PICTURES.astype(np.float32)), "does not hold image_data, uint8"),
        (spoilt(image_data=PICTURES[:, :80]), "does not hold image_data, uint8"),
        (spoilt(image_data=PICTURES[0]), "does not hold image_data, uint8"),
        (spoilt(image_data=PICTURES.tolist()), "does not hold image_data, uint8"),
        (spoilt(class_dict=[1]), "does not hold image_data, uint8"),
        ([PICTURES], "does not hold image_data, uint8"),
        (spoilt(class_dict={}), "does not have 3 pictures of class n01704323: replace it"),
        (spoilt(class_dict={WNIDS[2]: IDS[:2]}), "does not have 3 pictures of class n01704323"),
        (spoilt(class_dict={WNIDS[2]: [0, 1, 1]}), "does not have 3 pictures of class n01704323"),
        (spoilt(class_dict={WNIDS[2]: [0, 1, 99]}), "does not have 3 pictures of class n01704323"),
        (spoilt(class_dict={WNIDS[2]: [0, 1, -1]}), "does not have 3 pictures of class n01704323"),
        (spoilt(class_dict={WNIDS[2]: [0, 1, "2"]}), "does not have 3 pictures of class n01704323"),
        (spoilt(class_dict={WNIDS[2]: "012"}), "does not have 3 pictures of class n01704323"),
        (spoilt(class_dict={WNIDS[2]: np.array(3)}), "does not have 3 pictures of class n01704323"),
        (spoilt(class_dict={WNIDS[2]: np.eye(3)}), "does not have 3 pictures of class n01704323"),
    ],
    ids=range(18),
)
def test_pickles_of_something_else(small, content, message, monkeypatch):
    monkeypatch.chdir(small)
    write_mini_pickles(small)
    (small / "mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(content, 2))
    refused(f"data/mini-imagenet-cache-val.pkl {message}", load_mini_imagenet, small)
    assert not (small / "escaped").exists()


def test_pickles_that_are_damaged_or_too_large(small, monkeypatch):
    write_mini_pickles(small)
    path = small / "mini-imagenet-cache-val.pkl"
    content = path.read_bytes()
    for damaged in (content[:1000], b"", b"<!DOCTYPE html>", b"(" * 100_000):
        path.write_bytes(damaged)
        refused("cache-val.pkl is not a pickle of plain arrays", load_mini_imagenet, small)
    monkeypatch.setattr(mini_imagenet, "_MAX_PICKLE", 10_000)
    path.write_bytes(content)
    refused("cache-train.pkl has over 10000 bytes", load_mini_imagenet, small)


# CIFAR-FS and FC100.


def python_2(folder):
    """As the published pickles were written: bytes as Python 2's str."""
    write_cifar_pickles(folder)
    for part, records in cifar_records().items():
        (folder / part).write_bytes(image_files.python_2_pickle(cifar_pickle(*records)))


def cifar_below(name):
    def write(folder):
        (folder / name).mkdir(parents=True)
        write_cifar_pickles(folder / name)

    return write


CIFAR_FORMS = {
    "pickles": write_cifar_pickles,
    "pickles of Python 2": python_2,
    "pickles below": cifar_below("a/cifar-100-python"),
    "pickles in a tar": lambda folder: write_tar(
        folder / "cifar-100-python.tar.gz", image_files.cifar_pickles()
    ),
    "pickles of protocol 5": lambda folder: write_cifar_pickles(folder, 5),
    "binary files": lambda folder: write_files(folder, cifar_binary()),
    "binary files in a tar": lambda folder: write_tar(
        folder / "cifar-100-binary.tar.gz", cifar_binary()
    ),
    "folders": lambda folder: write_files(folder, cifar_files()),
    "folders below": lambda folder: write_files(folder / "a" / "b", cifar_files()),
    "folders in a zip": lambda folder: write_zip(folder / "CIFAR100.zip", cifar_files()),
    "folders in a zip of FC100": lambda folder: write_zip(folder / "FC100.zip", cifar_files()),
}


@pytest.mark.parametrize("form", CIFAR_FORMS)
def test_forms_of_cifar_100(small, form):
    CIFAR_FORMS[form](small)
    images = load_cifar_fs(small)
    assert images.pixels.shape == (4 * COUNT, 32, 32, 3) and images.pixels.dtype == np.uint8
    assert images.classes == CIFAR and images.split_hash == split_hash(CIFAR)
    for name, own in by_class(images).items():
        np.testing.assert_array_equal(own, cifar_pixels(name))
    assert images.notes["from"].split()[0] in form and images.notes["resized"] == "no"
    other = load_fc100(small)
    assert (images.name, other.name) == ("cifar_fs", "fc100")
    np.testing.assert_array_equal(other.pixels, images.pixels)


def tfds_builder(monkeypatch, module, tmp_path, name, fetched):
    """A folder that tensorflow-datasets' own builder prepares from small files."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    gfile = SimpleNamespace(GFile=open, exists=os.path.exists)  # all it needs of TensorFlow
    tensorflow = SimpleNamespace(io=SimpleNamespace(gfile=gfile))
    monkeypatch.setattr(module, "tf", tensorflow, raising=False)
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download_and_extract", lambda self, urls: fetched)
    monkeypatch.setattr(manager, "download", lambda self, urls: fetched)
    builder = tfds.builder_cls(name)(data_dir=tmp_path / "tfds", file_format="array_record")
    builder.download_and_prepare()
    return tmp_path / "tfds"


def test_cifar_100_of_tensorflow_datasets(small, monkeypatch, tmp_path):
    module = pytest.importorskip("tensorflow_datasets.image_classification.cifar")
    load = module._load_data
    as_files = lambda *a: ((labels, io.BytesIO(encoded(x))) for labels, x in load(*a))  # noqa: E731
    monkeypatch.setattr(module, "_load_data", as_files)  # arrays would need TensorFlow
    write_files(small, cifar_binary())
    names = "".join(f"{name}\n" for name in sorted(CIFAR_NAMES) + [f"c{i}" for i in range(96)])
    (small / "cifar-100-binary/fine_label_names.txt").write_text(names)
    coarse = "".join(f"s{i}\n" for i in range(20))
    (small / "cifar-100-binary/coarse_label_names.txt").write_text(coarse)
    images = load_cifar_fs(tfds_builder(monkeypatch, module, tmp_path, "cifar100", str(small)))
    assert images.notes["from"] == "tensorflow-datasets"
    for name, own in by_class(images).items():
        np.testing.assert_array_equal(own, cifar_pixels(name))
    (tmp_path / "tfds/cifar100/3.0.2/dataset_info.json").write_text("{")
    shutil.rmtree(tmp_path / "cache")
    refused("tensorflow-datasets cannot read .*cifar100", load_cifar_fs, tmp_path / "tfds")


def test_cifar_100_that_is_nowhere(small):
    pytest.importorskip("tensorflow_datasets")
    message = (
        r"is not in .*, and .*cifar-100-binary.tar.gz cannot be reached .*: put cifar-100-python"
    )
    refused(f"^cifar_fs {message}", load_cifar_fs, small)
    refused(f"^fc100 {message}", load_fc100)


LABELS, IMAGES = cifar_records()["test"]
GOOD = cifar_pickle(LABELS, IMAGES)


@pytest.mark.parametrize(
    "content, message",
    [
        (Code(), r"is not a pickle of plain arrays \(asks for posix.system\)"),
        (GOOD | {"data": GOOD["data"][:3]}, "does not hold 4 pictures of CIFAR-100: replace it"),
        (GOOD | {"data": GOOD["data"].astype(np.int16)}, "does not hold 4 pictures of CIFAR-100"),
        (GOOD | {"data": GOOD["data"][:, 1:]}, "does not hold 4 pictures of CIFAR-100"),
        (GOOD | {"data": GOOD["data"].tolist()}, "does not hold 4 pictures of CIFAR-100"),
        (GOOD | {"fine_labels": [0, 1, 2]}, "does not hold 4 pictures of CIFAR-100"),
        (GOOD | {"fine_labels": [0, 1, 2, 100]}, "does not hold 4 pictures of CIFAR-100"),
        (GOOD | {"fine_labels": [0, 1, 2, -1]}, "does not hold 4 pictures of CIFAR-100"),
        (GOOD | {"fine_labels": [0, 1, 2, 3.0]}, "does not hold 4 pictures of CIFAR-100"),
        (GOOD | {"fine_labels": "0123"}, "does not hold 4 pictures of CIFAR-100"),
        ({"data": GOOD["data"]}, "does not hold 4 pictures of CIFAR-100"),
        (3, "does not hold 4 pictures of CIFAR-100"),
        (
            GOOD | {"fine_labels": [0, 0, 0, 0]},
            "data has 0 of 4 classes complete: 'apple' has 6 pictures",
        ),
    ],
    ids=range(13),
)
def test_pickles_of_no_cifar_100(small, content, message, monkeypatch):
    monkeypatch.chdir(small)
    write_cifar_pickles(small)
    (small / "test").write_bytes(pickle.dumps(content, 2))
    refused(message, load_cifar_fs, small)
    assert not (small / "escaped").exists()


def test_pickles_in_a_tar_that_are_no_cifar_100(small, monkeypatch):
    tar = small / "cifar-100-python.tar.gz"
    files = image_files.cifar_pickles()
    name = "cifar-100-python/test"
    write_tar(tar, files | {name: image_files.python_2_pickle({"data": b"", "fine_labels": [1]})})
    refused(r"python.tar.gz does not hold 4 pictures of CIFAR-100: replace", load_cifar_fs, small)
    write_tar(tar, files | {name: b"cos\nsystem\n(S'true'\ntR."})
    refused(
        r"python.tar.gz is not a pickle of plain arrays \(asks for os.system\)", load_fc100, small
    )
    monkeypatch.setattr(cifar, "_LIMITS", cifar._LIMITS._replace(file_bytes=100))
    write_tar(tar, files)
    refused("tar.gz has 'cifar-100-python/train' of", load_cifar_fs, small)


def test_binary_files_of_no_cifar_100(small, monkeypatch):
    files = cifar_binary()
    name = "cifar-100-binary/test.bin"
    files[name] = files[name][:-1]
    write_files(small, files)
    path = small / "cifar-100-binary"
    refused("test.bin: test.bin does not have 12296 bytes: replace", load_cifar_fs, small)
    shutil.rmtree(path)
    tar = small / "cifar-100-binary.tar.gz"
    write_tar(tar, files)
    refused("tar.gz: test.bin does not have 12296 bytes", load_cifar_fs, small)
    os.truncate(tar, 5000)
    refused("cifar-100-binary.tar.gz is damaged", load_cifar_fs, small)
    write_tar(
        tar, {name: content for name, content in cifar_binary().items() if "test" not in name}
    )
    refused("tar.gz has 0 of 4 classes complete: 'apple' has 2 pictures", load_cifar_fs, small)
    write_tar(tar, {"other/train.bin": b""})
    refused("tar.gz has 0 of 4 classes complete: 'apple' has 0 pictures", load_cifar_fs, small)
    monkeypatch.setattr(cifar, "_LIMITS", cifar._LIMITS._replace(file_bytes=100))
    write_tar(tar, cifar_binary())
    refused("tar.gz has 'cifar-100-binary/train.bin' of", load_cifar_fs, small)


def test_a_flipped_bit_in_a_tar(small):
    """Which may inflate to other pixels: only the checksum at the end shows it."""
    tar = small / "cifar-100-binary.tar.gz"
    write_tar(tar, cifar_binary())
    content = tar.read_bytes()
    for at in range(100, len(content), len(content) // 20):
        tar.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        refused("cifar-100-binary.tar.gz (is damaged|has 0 of)|does not have", load_cifar_fs, small)


def test_class_folders_that_are_not_complete(small):
    write_files(small, cifar_files())
    (small / "cifar100/cup/1.webp").unlink()
    refused("3 of 4 classes complete: 'cup' has 2 pictures, expected 3", load_cifar_fs, small)
    write_files(small, cifar_files() | {"cifar100/cup/1.webp": b"RIFF\0\0\0\0WEBP"})
    refused("cifar100/cup/1.webp is not a readable picture", load_cifar_fs, small)


# VGG-Flower.


def flower_folder(folder):
    write_flowers(folder)
    (folder / "102flowers.tgz").unlink()
    write_files(folder, flower_files())


def flowers_below(folder):
    (folder / "vgg_flower").mkdir()
    write_flowers(folder / "vgg_flower")


def dotted(folder):
    """A tar made by `tar -cz .`."""
    write_flowers(folder)
    write_tar(folder / "102flowers.tgz", {f"./{name}": x for name, x in flower_files().items()})


@pytest.mark.parametrize("form", [write_flowers, flower_folder, flowers_below, dotted])
def test_forms_of_the_flowers(small, form):
    form(small)
    images = load_vgg_flower(small)
    assert images.pixels.shape == (9, 32, 32, 3) and images.classes == FLOWERS
    assert images.notes["from"] == "photographs" and images.notes["resized"] == "squashed"
    contents = list(flower_files().values())
    for name, own in by_class(images).items():
        expected = [
            decode_picture(content, "", 32)
            for content, label in zip(contents, FLOWER_LABELS, strict=True)
            if label == int(name[:3])
        ]
        np.testing.assert_array_equal(own, sorted(expected, key=np.ndarray.tobytes))
    assert sorted(map(len, by_class(images).values())) == [2, 2, 2, 3]
    assert load_vgg_flower(small, size=10).pixels.shape == (9, 10, 10, 3)


def test_flowers_of_tensorflow_datasets(small, monkeypatch, tmp_path):
    import scipy.io

    name = "tensorflow_datasets.datasets.oxford_flowers102.oxford_flowers102_dataset_builder"
    module = pytest.importorskip(name)
    write_flowers(small)
    expected = by_class(load_vgg_flower(small))
    write_files(small, flower_files())
    sets = {"trnid": [1, 2, 3], "valid": [4, 5], "tstid": [6, 7, 8, 9]}
    scipy.io.savemat(small / "setid.mat", {k: np.array(ids)[None] for k, ids in sets.items()})
    paths = {"images": small, "labels": small / "imagelabels.mat", "setid": small / "setid.mat"}
    paths = {name: str(path) for name, path in paths.items()}
    home = tfds_builder(monkeypatch, module, tmp_path, "oxford_flowers102", paths)
    shutil.rmtree(tmp_path / "cache")
    images = load_vgg_flower(home)
    assert images.notes["from"] == "tensorflow-datasets"
    for name, own in by_class(images).items():
        np.testing.assert_array_equal(own, expected[name])


def test_flowers_that_are_nowhere(small):
    pytest.importorskip("tensorflow_datasets")
    message = "^vgg_flower is not in .*, and .* cannot be reached .*: put 102flowers.tgz and image"
    refused(message, load_vgg_flower, small)
    write_flowers(small)
    (small / "imagelabels.mat").unlink()
    refused(message, load_vgg_flower, small)


def labels(*values):
    return lambda folder: write_flowers(folder, values)


def without_a_flower(folder):
    write_flowers(folder)
    files = flower_files()
    del files["jpg/image_00007.jpg"]
    write_tar(folder / "102flowers.tgz", files)


def flower(name, content):
    def write(folder):
        write_flowers(folder)
        write_tar(folder / "102flowers.tgz", flower_files() | {name: content})

    return write


def no_labels(content):
    def write(folder):
        write_flowers(folder)
        (folder / "imagelabels.mat").write_bytes(content)

    return write


@pytest.mark.parametrize(
    "write, message",
    [
        (without_a_flower, "tgz has 8 of 9 flowers, image_00007.jpg is missing: replace it"),
        (
            flower("jpg/image_00010.jpg", b""),
            "tgz: jpg/image_00010.jpg is not one of the 9 flowers",
        ),
        (
            flower("jpg/image_00000.jpg", b""),
            "tgz: jpg/image_00000.jpg is not one of the 9 flowers",
        ),
        (flower("jpg/image_00003.jpg", b"x"), "tgz: jpg/image_00003.jpg is not a readable picture"),
        (labels(1, 2, 3, 4), r"imagelabels.mat does not hold the labels of 9 flowers \(it holds"),
        (labels(*[1, 2, 3, 5] * 2, 1), r"imagelabels.mat does not .*\(labels are not 1 to 4\)"),
        (no_labels(b""), "imagelabels.mat does not hold the labels of 9 flowers"),
        (no_labels(b"MATLAB" * 100), "imagelabels.mat does not hold the labels of 9 flowers"),
        (no_labels(bytes(70_000)), r"imagelabels.mat does not .*\(over 65536 bytes\)"),
    ],
    ids=range(9),
)
def test_flowers_that_are_not(small, write, message):
    write(small)
    refused(message, load_vgg_flower, small)


def test_labels_that_name_something_else(small):
    import scipy.io

    write_flowers(small)
    scipy.io.savemat(small / "imagelabels.mat", {"other": np.arange(9)})
    refused(r"imagelabels.mat does not hold .*\('labels'\)", load_vgg_flower, small)
    scipy.io.savemat(small / "imagelabels.mat", {"labels": np.array([1.5, 2, 3, 4, 1, 2, 3, 4, 1])})
    refused(r"imagelabels.mat does not hold .*\(labels are not 1 to 4\)", load_vgg_flower, small)
    scipy.io.savemat(small / "imagelabels.mat", {"labels": np.array(["a"] * 9, object)})
    refused(r"imagelabels.mat does not hold .*\(it holds object", load_vgg_flower, small)


# The real files.


@pytest.fixture
def real(monkeypatch, tmp_path):
    """The folder of a set's real files; what is made of them is deleted."""

    def folder(name):
        if not (REAL / name).is_dir():
            pytest.skip(f"CML_JAX_DATA is not set to the folder of {name}/: NOT TESTED")
        return REAL / name

    yield folder
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.mark.slow
def test_real_mini_imagenet(real):
    images = load_mini_imagenet(real("mini_imagenet"))
    assert images.pixels.shape == (60_000, 84, 84, 3)
    assert [len(part) for part in images.classes] == [64, 16, 20]
    assert set(images.members.counts.tolist()) == {600}
    assert images.split_hash == "688812fa5e7544ba"
    assert images.notes["identical_in_two_splits"] == 6  # ImageNet has them under two names
    assert images.notes["identical_in_two_classes"] == images.notes["identical_in_class"] == 1
    assert 90 < images.pixels[::100].mean() < 140


@pytest.mark.slow
def test_real_cifar_100(real):
    images = load_cifar_fs(real("cifar100"))
    other = load_fc100(real("cifar100"))
    for data, counts in ((images, [64, 16, 20]), (other, [60, 20, 20])):
        assert data.pixels.shape == (60_000, 32, 32, 3)
        assert [len(part) for part in data.classes] == counts
        assert set(data.members.counts.tolist()) == {600}
    both = by_class(images), by_class(other)
    assert both[0].keys() == both[1].keys()
    assert all((both[0][name] == both[1][name]).all() for name in both[0])
    # The published means of CIFAR-100's channels, 0.507, 0.487, 0.441 (of the training images).
    means = images.pixels.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.507, 0.487, 0.441], atol=0.003)
