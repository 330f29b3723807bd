"""A folder of images that nobody prepared: it trains with one command."""

import io
import json
import zipfile
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from support.image_files import encoded, pictures, write_files
from support.runs import run

SHORT = (
    "--config.train_steps=4",
    "--config.eval.every=2",
    "--config.eval.num_tasks=10",
    "--config.eval.validation_tasks=4",
    "--config.eval.num_steps=1,",
    "--config.eval.queries=3",
    "--config.data.queries=3",
    "--config.data.size=16",
    "--config.num_steps=1",
    "--config.tasks_per_step=2",
    "--config.model.filters=8",
    "--config.plan.compilation_cache=False",
)


def untidy(folder, classes):
    """Class folders of JPEGs of odd shapes, some turned, among what systems leave there."""
    rng = np.random.default_rng(0)
    for name, images in classes.items():
        for i, image in enumerate(images):
            size = rng.integers(20, 90, 2).tolist()
            image = Image.fromarray(image).resize(size)
            exif = Image.Exif()
            exif[0x0112] = int(rng.integers(1, 9))
            content = encoded(image, "JPEG", exif=exif)
            write_files(folder, {f"{name}/IMG {i}.JPG": content})
        write_files(folder, {f"{name}/Thumbs.db": b"x", f"{name}/.DS_Store": b"x"})
    (folder / "new folder").mkdir()


@pytest.fixture
def photographs(apart, tmp_path):
    """Eight classes of 5 to 12 pictures."""
    classes = {f"class {i}": pictures(i, 5 + i, 20, 20) for i in range(8)}
    untidy(tmp_path / "photographs", classes)
    return tmp_path / "photographs"


def train(workdir, folder, *flags, config="2way-1shot"):
    return run(
        workdir, f"--config=configs/folder.py:{config}", f"--config.data.dir={folder}", *flags
    )


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_it_trains_with_one_command(photographs, tmp_path):
    flags = (*SHORT, "--config.method=anil", "--config.co_learner=none")
    done = train(tmp_path / "run", photographs, *flags)
    assert done.returncode == 0, done.stderr
    assert "test of step " in done.stdout
    assert "8 files are not pictures, one is 'class 0/Thumbs.db': left alone" in done.stderr
    assert "images: 68 of 16 x 16, 4 / 2 / 2 classes of 5 to 12" in done.stderr
    made = results(tmp_path / "run")
    expected = {"number": 68, "shape": [16, 16, 3], "classes": [4, 2, 2]}
    expected |= {"smallest_class": 5, "largest_class": 12}
    expected |= {"from": "pictures in a folder", "fit": "squash", "identical_in_two_splits": 0}
    assert expected.items() <= made["images"].items()
    assert made["data"] == "folder" and len(made["split_hash"]) == 16
    # Ten test tasks of three queries of each of the two test classes.
    confusion = json.loads((tmp_path / "run" / "confusion.json").read_text())
    wrong = round(60 * (1 - made["test"]["accuracy"]))
    assert confusion["num_tasks"] == 10
    assert [(row["queries"], row["wrong"]) for row in confusion["pairs"]] == [(60, wrong)]
    assert sum(row["wrong"] for row in confusion["classes"]) == wrong > 0
    pair = " and ".join(confusion["pairs"][0]["classes"])
    assert pair in (tmp_path / "run" / "report.html").read_text()


def split_file(tmp_path):
    """The smallest class and another are for the test."""
    names = [f"class {i}" for i in range(8)]
    lists = {"train": names[4:], "validation": names[1:3], "test": [names[0], names[3]]}
    (tmp_path / "split.json").write_text(json.dumps(lists))
    return f"--config.data.split_file={tmp_path / 'split.json'}"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cml", "finn", "reptile", "agreement"])
def test_every_recipe_trains(photographs, tmp_path, recipe):
    flags = [*SHORT, split_file(tmp_path), "--config.data.fit=crop"]
    if recipe in ("reptile", "agreement"):
        flags = [flag for flag in flags if "data.queries" not in flag]
        flags += ["--config.data.train_shots=4", "--config.minibatch=4"]
    config = f"2way-1shot,recipe={recipe}"
    done = train(tmp_path / "run", photographs, *flags, config=config)
    assert done.returncode == 0, done.stderr
    made = results(tmp_path / "run")["images"]
    assert made["classes"] == [4, 2, 2] and made["fit"] == "crop"


def test_a_class_that_is_too_small_is_left_out(photographs, tmp_path):
    flags = (*SHORT, split_file(tmp_path), "--config.eval.queries=5")
    done = train(tmp_path / "run", photographs, *flags)
    assert done.returncode == 2
    assert "1 classes have fewer than 6 pictures (shots + queries), one is 'class 0'" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: data.ways=2 but the test split has 1 classes: lower --config.data.ways, or give it "
        "more by --config.data.classes"
    )


@pytest.mark.parametrize(
    "flags, message",
    [
        (["split_file=SPLIT"], "split.csv names class 'classy', which has no pictures; there are"),
        (["split_file=missing.csv"], "missing.csv is not a class split ("),
        (["classes=6,2,2"], "class counts (6, 2, 2) but there are 8 classes"),
        (["dir=/nowhere"], "there is no folder or zip /nowhere: correct data.dir"),
        (["dir="], "there is no folder of images: set data.dir"),
        (["channels=2"], "channels=2, fit="),
        (["fit=stretch"], "data.fit='stretch': needs one of squash, crop"),
        (["size=4"], "images of 4 x 4 pixels, but conv4 with pool=True halves them four times"),
    ],
    ids=lambda value: value[0] if type(value) is list else "",
)
def test_what_does_not_fit_is_one_line(photographs, tmp_path, flags, message):
    split = tmp_path / "split.csv"
    split.write_text("class,split\nclassy,train\nclass 1,val\nclass 2,test\n")
    flags = [f"--config.data.{flag}".replace("SPLIT", str(split)) for flag in flags]
    done = train(tmp_path / "run", photographs, *SHORT, *flags)
    assert done.returncode == 2, done.stderr
    *others, line = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert all("are not pictures" in other for other in others)
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_damaged_picture_is_named(photographs, tmp_path):
    (photographs / "class 3" / "IMG 2.JPG").write_bytes(b"GIF89a")
    done = train(tmp_path / "run", photographs, *SHORT)
    assert done.returncode == 2
    assert "class 3/IMG 2.JPG is not a readable picture" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_twenty_classes_of_real_files(data_dir, apart, tmp_path):
    """Any 20 classes of CIFAR-100, 30 pictures or fewer of each."""
    classes = {}
    with zipfile.ZipFile(data_dir / "cifar100" / "cifar100.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".webp")]
        for i, label in enumerate(sorted({name.split("/")[1] for name in names})[::5]):
            own = islice((name for name in names if f"/{label}/" in name), 30 - i % 3)
            images = [Image.open(io.BytesIO(archive.read(name))) for name in own]
            classes[label] = [np.asarray(image.convert("RGB")) for image in images]
    untidy(tmp_path / "photographs", classes)
    done = train(tmp_path / "run", tmp_path / "photographs", *SHORT, config="3way-1shot")
    assert done.returncode == 0, done.stderr
    made = results(tmp_path / "run")["images"]
    assert made["classes"] == [13, 3, 4]
    assert (made["smallest_class"], made["largest_class"]) == (28, 30)
