"""A user's own images: any folder or zip with a folder for each class."""

import json
import os

import numpy as np
import pytest
from support.image_files import (
    ANIMALS,
    animal_files,
    by_class,
    encoded,
    pictures,
    refused,
    write_animals_zip,
    write_files,
)
from support.omniglot_files import write_zip

from cml_jax.data import Split, folder, load_folder
from cml_jax.data.pictures import decode_picture
from cml_jax.data.types import split_hash

pytestmark = pytest.mark.usefixtures("apart")

SPLIT = {"train": ["cat", "dog", "pig"], "validation": ["cow"], "test": ["hen"]}


@pytest.fixture
def animals(tmp_path):
    """A folder of five classes."""
    write_files(tmp_path / "animals", animal_files())
    return tmp_path / "animals"


@pytest.fixture
def split_file(tmp_path):
    (tmp_path / "split.json").write_text(json.dumps(SPLIT))
    return str(tmp_path / "split.json")


def same(a, b):
    assert a[2:5] == b[2:5]
    for one, other in zip(by_class(a).items(), by_class(b).items(), strict=True):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])


def test_every_class_has_its_pictures(animals, split_file):
    images = load_folder(animals, size=8, split_file=split_file)
    assert images.pixels.shape == (25, 8, 8, 3) and images.pixels.dtype == np.uint8
    assert images.classes == Split(("cat", "dog", "pig"), ("cow",), ("hen",))
    assert images.split_hash == split_hash(images.classes) and images.name == "folder"
    found = by_class(images)
    assert {name: len(own) for name, own in found.items()} == ANIMALS
    files = animal_files()
    for name, own in found.items():
        for i, image in enumerate(own):
            content = files[f"{name}/{i}.png"]
            np.testing.assert_array_equal(image, decode_picture(content, "", 8))
    expected = {"from": "pictures in a folder", "size": 8, "channels": 3, "fit": "squash"}
    assert expected.items() <= images.notes.items()


def test_shapes_that_are_asked_for(animals, split_file):
    files = animal_files()
    grey = load_folder(animals, size=6, channels=1, fit="crop", split_file=split_file)
    expected = decode_picture(files["hen/1.png"], "", 6, channels=1, fit="crop")
    np.testing.assert_array_equal(by_class(grey)["hen"][1], expected)
    assert grey.notes["channels"] == 1 and grey.notes["fit"] == "crop"
    assert load_folder(animals, split_file=split_file).pixels.shape == (25, 84, 84, 3)
    same(load_folder(animals, size=6, channels=1, fit="crop", split_file=split_file), grey)
    for wrong in ({"size": 5000}, {"channels": 4}, {"fit": "stretch"}):
        with pytest.raises(ValueError, match="give 1 to 4096, 1 or 3, one of"):
            load_folder(animals, **wrong)


def windows(files):
    return {name.replace("/", "\\"): content for name, content in files.items()}


def below(front):
    return lambda files: {f"{front}/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("change", [dict, windows, below("my animals"), below("a/b")])
def test_a_zip_is_its_folder(animals, split_file, tmp_path, change):
    data = load_folder(animals, size=8, split_file=split_file)
    write_zip(tmp_path / "a.zip", change(animal_files()))
    images = load_folder(tmp_path / "a.zip", size=8, split_file=split_file)
    same(images, data)
    assert images.notes["from"] == "pictures in a zip"
    write_files(tmp_path / "other", below("a/b")(animal_files()))
    same(load_folder(tmp_path / "other", size=8, split_file=split_file), data)


def test_every_format_in_one_class(tmp_path):
    colour = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    forms = {"a.JPG": "JPEG", "b.jpeg": "JPEG", "c.png": "PNG", "d.webp": "WEBP"}
    forms |= {"e.bmp": "BMP", "f.GIF": "GIF"}
    contents = {name: encoded(colour, form) for name, form in forms.items()}
    contents["turned.jpg"] = contents["a.JPG"]
    write_files(tmp_path, {f"{c}/{n}": x for c in "xyz" for n, x in contents.items()})
    images = load_folder(tmp_path, size=8)
    assert [len(own) for own in by_class(images).values()] == [7] * 3
    assert np.abs(images.pixels.astype(int) - [200, 100, 50]).max() < 4


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_what_is_no_picture_is_left_alone_and_told(animals, split_file, tmp_path, caplog, form):
    data = load_folder(animals, size=8, split_file=split_file)
    assert not caplog.messages
    others = {"cat/Thumbs.db": b"x", "readme.txt": b"x", ".DS_Store": b"x", "cat/.0.png": b"x"}
    others |= {"__MACOSX/cat/._0.png": b"x", ".hidden/0.png": b"x"}
    path = tmp_path / "other"
    if form == "zip":
        write_zip(path, animal_files() | others | {"empty/": b""})
    else:
        write_files(path, animal_files() | others)
        (path / "empty").mkdir()
    same(load_folder(path, size=8, split_file=split_file), data)
    [line] = caplog.messages
    assert "2 files are not pictures, one is " in line and line.endswith("left alone")


def test_classes_that_the_file_does_not_name_are_left_out(animals, tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("class,split\ncow,test\npig,train\ncat,val\n")
    images = load_folder(animals, size=8, split_file=str(path))
    assert images.classes == Split(("pig",), ("cat",), ("cow",))
    assert len(images.pixels) == 7 + 6 + 4


def test_drawn_classes(animals):
    drawn = load_folder(animals, size=8, classes=(2, 2, 1), split_seed=1)
    assert [len(part) for part in drawn.classes] == [2, 2, 1]
    assert {name: len(own) for name, own in by_class(drawn).items()} == ANIMALS
    same(load_folder(animals, size=8, classes=(2, 2, 1), split_seed=1), drawn)
    hashes = {load_folder(animals, size=8, split_seed=seed).split_hash for seed in range(8)}
    assert len(hashes) > 4 and drawn.split_hash not in hashes
    assert [len(part) for part in load_folder(animals, size=8, classes=(1, 1, 1)).classes] == [
        1
    ] * 3


def in_splits(**of_class):
    """The files of the classes below folders with the names of splits."""
    return {
        f"{of_class[name.split('/')[0]]}/{name}": content
        for name, content in animal_files().items()
    }


OWN = {"cat": "train", "dog": "train", "pig": "train", "cow": "val", "hen": "test"}


def test_the_split_of_the_folders(animals, split_file, tmp_path):
    write_files(tmp_path / "own", below("set")(in_splits(**OWN)))
    own = load_folder(tmp_path / "own", size=8)
    assert own.classes == Split(*map(tuple, SPLIT.values()))
    same(own, load_folder(animals, size=8, split_file=split_file))
    drawn = load_folder(tmp_path / "own", size=8, classes=(2, 2, 1))  # which asks for another
    assert [len(part) for part in drawn.classes] == [2, 2, 1]
    assert set(sum(drawn.classes, ())) == set(ANIMALS)


def test_folders_for_two_splits_alone(tmp_path, caplog):
    write_files(tmp_path / "own", in_splits(**OWN | {"cow": "test"}))
    images = load_folder(tmp_path / "own", size=8)
    assert {name: len(own) for name, own in by_class(images).items()} == ANIMALS
    [line] = caplog.messages
    assert "no classes for validation: all classes are split anew" in line


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val", "test")])
def test_a_class_in_two_splits_is_put_together(tmp_path, caplog, parts):
    """As where train, val and test are pictures of the same classes."""
    files = {
        f"{parts[i % len(parts)]}/{name}": content
        for i, (name, content) in enumerate(animal_files().items())
    }
    write_files(tmp_path / "own", files)
    images = load_folder(tmp_path / "own", size=8)
    assert {name: len(own) for name, own in by_class(images).items()} == ANIMALS
    [line] = caplog.messages
    assert "classes have pictures in two of train, validation and test: put together" in line


def test_classes_below_classes_have_both_names(tmp_path):
    files = {f"{'ab'[i % 2]}/{n}": x for i, (n, x) in enumerate(animal_files().items())}
    write_files(tmp_path, {name: x for name, x in files.items() if "dog" not in name})
    names = sum(load_folder(tmp_path, size=8, at_least=1).classes, ())
    assert set(names) == {f"{a}/{b}" for a in "ab" for b in ANIMALS if b != "dog"}


def test_small_classes_are_left_out_and_told(animals, split_file, caplog):
    refused("no test class of at least 4", load_folder, animals, split_file=split_file, at_least=4)
    caplog.clear()
    images = load_folder(animals, size=8, at_least=4)
    large = {name: count for name, count in ANIMALS.items() if name != "hen"}
    assert {name: len(own) for name, own in by_class(images).items()} == large
    [line] = caplog.messages
    assert line.startswith("1 classes have fewer than 4 pictures") and "'hen'" in line


def test_identical_images_are_counted(tmp_path, split_file):
    files = animal_files()
    files["cat/1.png"] = files["cat/2.png"] = files["cat/0.png"]
    files["dog/0.png"] = files["cat/0.png"]
    files["hen/0.png"], files["hen/1.png"] = files["cow/0.png"], files["pig/0.png"]
    write_files(tmp_path / "a", files)
    notes = load_folder(tmp_path / "a", size=8, split_file=split_file).notes
    assert {name: n for name, n in notes.items() if name.startswith("identical")} == {
        "identical_in_class": 2,
        "identical_in_two_classes": 1,
        "identical_in_two_splits": 2,
    }


def test_the_cache_is_used_until_something_changes(animals, split_file, monkeypatch):
    data = load_folder(animals, size=8, split_file=split_file)
    kept = by_class(data)["cat"].copy()
    with monkeypatch.context() as patch:
        patch.setattr(folder, "decode_all", None)  # calling it would fail
        same(load_folder(str(animals), size=8, split_file=split_file), data)
    (animals / "cat/0.png").write_bytes(encoded(pictures(999, 1)[0]))
    changed = load_folder(animals, size=8, split_file=split_file)
    assert (by_class(changed)["cat"][0] != kept[0]).any()
    np.testing.assert_array_equal(by_class(changed)["cat"][1:], kept[1:])


# What is refused.


def test_there_is_no_such_folder(tmp_path):
    refused("there is no folder of images: set data.dir", load_folder, None)
    refused("there is no folder or zip .*/a: correct data.dir", load_folder, tmp_path / "a")
    refused("there is no folder or zip ~stranger/a", load_folder, "~stranger/a")
    (tmp_path / "a.zip").write_bytes(b"x" * 99)
    refused("a.zip is damaged", load_folder, tmp_path / "a.zip")
    refused(
        "has 0 folders with pictures: few-shot learning needs one for each", load_folder, tmp_path
    )


def test_too_few_classes(animals, tmp_path):
    refused("5 classes are too few for 2 in each", load_folder, animals, ways=2)
    refused(r"class counts \(3, 2, 1\) but there are 5", load_folder, animals, classes=(3, 2, 1))
    refused("0 classes are too few for 1 in each", load_folder, animals, at_least=99)
    for name in ("cow", "dog", "hen"):
        for path in (animals / name).iterdir():
            path.unlink()
    refused("animals has 2 folders with pictures", load_folder, animals)


def test_a_picture_outside_of_the_classes(animals, tmp_path):
    (animals / "loose.png").write_bytes(b"")
    refused("has 'loose.png' outside of any class's folder: put it into one", load_folder, animals)


def test_a_class_split_that_does_not_fit(animals, tmp_path):
    path = tmp_path / "split.csv"
    for body, message in (
        (
            "cat,train\nmouse,test\ncow,val\n",
            "split.csv names class 'mouse', which has no pictures",
        ),
        ("cat,train\ncat,test\ncow,val\n", "class 'cat' is in train and in test"),
        ("cat,train\n", "need a class each"),
    ):
        path.write_text("class,split\n" + body)
        refused(message, load_folder, animals, split_file=str(path))
    refused("missing.json is not a class split", load_folder, animals, split_file="missing.json")
    refused("~stranger/a.json is not a class", load_folder, animals, split_file="~stranger/a.json")


BAD = {
    "text": (b"not a picture", "it is none of JPEG, PNG"),
    "truncated": (encoded(pictures(0, 1)[0])[:-500], ""),
    "empty": (b"", "it is none of JPEG, PNG"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_bad_picture_is_named(animals, split_file, tmp_path, form, kind):
    content, why = BAD[kind]
    files = animal_files() | {"pig/3.png": content}
    path = tmp_path / f"other.{form}"
    write_zip(path, files) if form == "zip" else write_files(path, files)
    match = rf"other.{form}/pig/3.png is not a readable picture \(.*{why}"
    refused(match, load_folder, path, size=8, split_file=split_file)


def test_a_bad_picture_does_not_harm_the_old_cache(animals, split_file):
    load_folder(animals, size=8, split_file=split_file)
    before = sorted(path.name for path in os.scandir(os.environ["CML_JAX_CACHE"]))
    (animals / "pig/3.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="pig/3.png"):
        load_folder(animals, size=8, split_file=split_file)
    assert sorted(path.name for path in os.scandir(os.environ["CML_JAX_CACHE"])) == before
    write_files(animals, animal_files())
    assert len(load_folder(animals, size=8, split_file=split_file).pixels) == 25


@pytest.mark.parametrize(
    "name, message",
    [("../cat/0.png", "unsafe name"), ("/cat/0.png", "unsafe name"), ("cat\\..\\0.png", "unsafe")],
)
def test_a_zip_that_leads_outside(tmp_path, name, message):
    write_zip(tmp_path / "a.zip", animal_files() | {name: b"x"})
    refused(rf"a.zip has a member with the {message}", load_folder, tmp_path / "a.zip")


def test_a_truncated_zip(tmp_path):
    write_animals_zip(tmp_path / "a.zip")
    os.truncate(tmp_path / "a.zip", 3000)
    refused("a.zip is damaged", load_folder, tmp_path / "a.zip")


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="no file that lies of its size")
def test_a_file_that_lies_of_its_size(animals, split_file):
    (animals / "cat" / "9.png").symlink_to("/proc/version")
    refused("9.png has another size when it is read", load_folder, animals, split_file=split_file)


def test_a_picture_that_cannot_be_read(animals, split_file, monkeypatch):
    monkeypatch.setattr(folder, "LIMITS", folder.LIMITS._replace(file_bytes=100))
    refused("0.png has more than 100 bytes", load_folder, animals, split_file=split_file)
    monkeypatch.setattr(folder, "LIMITS", folder.LIMITS._replace(files=10))
    refused("has more than 10 files and folders", load_folder, animals, split_file=split_file)
