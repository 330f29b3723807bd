"""Which classes are for training, validation and test: from a file, or drawn."""

import json

import pytest

from cml_jax.data import DataError, Split
from cml_jax.data.class_lists import draw_classes, read_class_lists, split_of_name

SPLIT = Split(("cat", "dog"), ("cow",), ("hen",))


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.json", '{"train": ["cat", "dog"], "validation": ["cow"], "test": ["hen"]}'),
        ("a.json", '{"test": ["hen"], "val": ["cow"], "Train": ["cat", "dog", "cat"]}'),
        ("a.json", '\ufeff{"training": ["cat", "dog"], "dev": ["cow"], "testing": ["hen"]}'),
        ("a.csv", "class,split\ncat,train\ndog,train\ncow,validation\nhen,test\n"),
        ("a.csv", "split,note,class\r\ntrain,,cat\r\nval,x,cow\r\ntrain,,dog\r\ntest,y,hen\r\n"),
        ("a.CSV", '\ufeffLabel, Split\n"cat",train\ncat,train\ndog,TRAIN\ncow,valid\nhen, test\n'),
    ],
)
def test_forms(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_class_lists(tmp_path / name) == SPLIT


def test_names_with_commas_and_folders(tmp_path):
    (tmp_path / "a.csv").write_text('class,split\n"a,b",train\nGreek/character01,val\né,test\n')
    assert read_class_lists(tmp_path / "a.csv") == Split(("a,b",), ("Greek/character01",), ("é",))


def lists(**changes):
    return json.dumps({"train": ["cat"], "validation": ["cow"], "test": ["hen"]} | changes)


@pytest.mark.parametrize(
    "name, text, why",
    [
        ("a.json", None, "No such file"),
        ("a.json", "", "Expecting value"),
        ("a.json", "[]", "it is not an object"),
        ("a.json", "[" * 100_000, "recursion"),
        ("a.json", "\xff", "decode"),
        ("a.json", lists(test=[]), "train, validation and test need a class each"),
        ("a.json", '{"train": ["cat"]}', "train, validation and test need a class each"),
        ("a.json", lists(tset=["pig"]), "'tset' is not train, validation or test"),
        ("a.json", lists(test="hen"), "'test' is not a list of names"),
        ("a.json", lists(test=["hen", 3]), "'test' is not a list of names"),
        ("a.json", lists(test=["hen", "cat"]), "class 'cat' is in train and in test"),
        ("a.csv", "", "does not name the columns class and split"),
        ("a.csv", "cat,train\n", "does not name the columns class and split"),
        ("a.csv", "class,split\ncat\n", "a line has no class or no split"),
        ("a.csv", "class,split\n,train\n", "a line has no class or no split"),
        ("a.csv", "class,split\ncat,trian\n", "'trian' is not train, validation or test"),
        ("a.csv", "class,split\ncat,train\ncat,test\n", "class 'cat' is in train and in test"),
        ("a.csv", 'class,split\n"cat,train\n', "unexpected end of data"),
    ],
)
def test_what_is_no_class_split_is_one_line(tmp_path, name, text, why):
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="latin1")
    message = rf'{name} is not a class split \(.*{why}.*\): write {{"train": \["cat"\], '
    with pytest.raises(DataError, match=message) as caught:
        read_class_lists(path)
    assert "\n" not in str(caught.value)


def test_a_file_too_large(tmp_path):
    with open(tmp_path / "a.csv", "wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(DataError, match=r"a.csv is not a class split \(over 16777216 bytes\)"):
        read_class_lists(tmp_path / "a.csv")


def test_names_of_splits():
    assert [split_of_name(name) for name in ("Train", "val ", "dev", "TEST", "other")] == [
        "train",
        "validation",
        "validation",
        "test",
        None,
    ]


NAMES = [f"class{i}" for i in range(50)]


def test_a_draw_of_64_16_and_20_percent():
    drawn = draw_classes(NAMES, (0, 0, 0), seed=0)
    assert [len(part) for part in drawn] == [32, 8, 10]
    assert sorted(sum(drawn, ())) == sorted(NAMES)
    assert [len(part) for part in draw_classes(NAMES[:20], (0, 0, 0), 0, ways=5)] == [10, 5, 5]


def test_a_draw_depends_on_names_and_seed_alone():
    drawn = draw_classes(NAMES, (20, 5, 5), seed=3)
    assert [len(part) for part in drawn] == [20, 5, 5]
    assert drawn == draw_classes(NAMES[::-1], (20, 5, 5), seed=3)
    assert drawn != draw_classes(NAMES, (20, 5, 5), seed=4)
    assert set(drawn.train) <= set(draw_classes(NAMES, (25, 5, 5), seed=3).train)


@pytest.mark.parametrize(
    "counts, ways, message",
    [
        (
            (30, 15, 6),
            1,
            r"class counts \(30, 15, 6\) but there are 50 classes: give three",
        ),
        ((30, 0, 5), 1, r"class counts \(30, 0, 5\) but there are 50 classes"),
        ((0, 0, 0), 20, "50 classes are too few for 20 in each of training, validation and test"),
    ],
)
def test_counts_that_do_not_fit(counts, ways, message):
    with pytest.raises(DataError, match=message):
        draw_classes(NAMES, counts, 0, ways)
