"""Checkpoints: what comes back is what was saved, or the one before, or an error; never less."""

import os
import shutil
import tempfile

import jax.numpy as jnp
import pytest
from support.checkpoint_files import assert_is, extra, files, restore, state

from experiments.run_folder import checkpoints as checkpoints_module
from experiments.run_folder.checkpoints import CheckpointError, Checkpoints

# tensorstore reports a damaged file a second time, to an event loop that orbax has closed by then.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_newest_comes_back(workdir):
    assert_is(restore(workdir), 3)
    assert sorted(path.name for path in (workdir / "last").iterdir()) == ["1", "2", "3"]


def test_the_oldest_of_more_than_three_goes(workdir):
    checkpoints = Checkpoints(workdir)
    checkpoints.save_last(4, state(4), extra(4))
    checkpoints.close()
    assert_is(restore(workdir), 4)
    assert sorted(path.name for path in (workdir / "last").iterdir()) == ["2", "3", "4"]


def test_nothing_saved_is_none(tmp_path):
    assert restore(tmp_path) is None
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore_best(state(0)) is None
    checkpoints.close()


def test_best_is_one_and_may_be_older_than_the_last_best(workdir):
    checkpoints = Checkpoints(workdir)
    assert_is(checkpoints.restore_best(state(0)), 2)
    for step, values in ((5, 5), (4, 4), (4, 6)):
        checkpoints.save_best(step, state(values), extra(values))
        step_read, tree, _ = checkpoints.restore_best(state(0))
        assert step_read == step and tree.params["base"]["body"]["kernel"][0, 1] == values
        assert [path.name for path in (workdir / "best").iterdir()] == [str(step)]
    checkpoints.close()


def test_saving_what_is_there_is_nothing_and_anything_else_is_an_error(workdir):
    checkpoints = Checkpoints(workdir)
    checkpoints.save_last(3, state(3), extra(3))
    for step, values in ((3, 4), (1, 5)):
        with pytest.raises(CheckpointError, match=f"last/{step} was not saved") as error:
            checkpoints.save_last(step, state(values), extra(values))
        assert "\n" not in str(error.value)
    checkpoints.close()
    assert_is(restore(workdir), 3)


def test_a_failing_disk_is_an_error_and_the_ones_before_stay(workdir, monkeypatch):
    checkpoints = Checkpoints(workdir)

    def full(*_, **__):
        raise OSError("No space left on device\nand more")

    monkeypatch.setattr(checkpoints._last, "save", full)
    with pytest.raises(CheckpointError, match=r"last/9 was not saved: No space left on device$"):
        checkpoints.save_last(9, state(9), extra(9))
    checkpoints.close()
    assert_is(restore(workdir), 3)


def test_no_single_flipped_byte_or_cut_file_gives_wrong_arrays(saved, tmp_path):
    fell_back = 0
    for number, path in enumerate(files(saved / "last" / "3")):
        for damage in (flip, cut):
            workdir = shutil.copytree(saved, tmp_path / f"{number}-{damage.__name__}")
            damage(workdir / path.relative_to(saved))
            restored = restore(workdir)
            assert_is(restored, restored[0])
            fell_back += restored[0] == 2
            assert (workdir / "damaged-last-3").exists() == (restored[0] == 2)
    assert fell_back >= 5  # the payload, its index and the description


def test_arrays_of_another_step_are_not_taken_for_this_one(workdir, caplog):
    shutil.rmtree(workdir / "last" / "3" / "state")
    shutil.copytree(workdir / "last" / "2" / "state", workdir / "last" / "3" / "state")
    assert_is(restore(workdir), 2)
    assert "last/3 is damaged, now damaged-last-3: its arrays are not what" in caplog.text


@pytest.mark.parametrize("part", ["state", "about", "state/d", "."])
def test_deleted_parts(workdir, part):
    shutil.rmtree(workdir / "last" / "3" / part)
    if part == ".":
        (workdir / "last" / "3").mkdir()
    assert_is(restore(workdir), 2)


def test_training_goes_on_after_a_damaged_one(workdir):
    flip(workdir / "last" / "3" / "about" / "metadata")
    checkpoints = Checkpoints(workdir)
    assert_is(checkpoints.restore_last(state(0)), 2)
    checkpoints.save_last(3, state(3), extra(3))
    checkpoints.close()
    assert_is(restore(workdir), 3)
    assert sorted(path.name for path in workdir.iterdir()) == ["best", "damaged-last-3", "last"]


def test_none_good_is_an_error_every_time(workdir):
    for step in "123":
        for path in files(workdir / "last" / step):
            cut(path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no checkpoint in .*last is good \(step 3: "):
            restore(workdir)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_what_cannot_be_read_is_left_as_it_is(workdir, monkeypatch, error):
    def fail(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints_module, "_read", fail)
        with pytest.raises(
            CheckpointError, match=r"last/3 cannot be read \(.*: it is left"
        ) as told:
            restore(workdir)
    assert "delete" not in str(told.value)
    assert_is(restore(workdir), 3)


@pytest.mark.parametrize("part", ["manifest.ocdbt", "d"])
def test_what_tensorstore_may_not_open_is_left_as_it_is(workdir, part):
    path = workdir / "last" / "3" / "state" / part
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(part)  # to itself: even root may not open it
    with pytest.raises(CheckpointError, match="last/3 cannot be read"):
        restore(workdir)
    path.unlink()
    path.with_name("elsewhere").rename(path)
    assert_is(restore(workdir), 3)


def test_a_file_of_a_terabyte_is_damage_and_not_read(workdir):
    newest = workdir / "last" / "3"
    for name in [path.relative_to(newest) for path in files(newest)]:
        size = (newest / name).stat().st_size
        os.truncate(newest / name, 2**40)  # takes no room on the disk
        assert_is(restore(workdir), 2)
        (workdir / "damaged-last-3").rename(newest)
        os.truncate(newest / name, size)
    assert_is(restore(workdir), 3)


def test_another_config_is_told_and_nothing_is_set_aside(workdir):
    checkpoints = Checkpoints(workdir)
    wider = state(0)
    wider.params["base"]["body"]["bias"] = jnp.ones(31)
    more = state(0)
    more.params["co_learner"] = jnp.ones(2)
    for template, leaf in ((wider, r"\['bias'\] = \['float32', \[30\]\]"), (more, "missing")):
        with pytest.raises(CheckpointError, match=leaf + ".*the config has changed") as error:
            checkpoints.restore_last(template)
        assert "\n" not in str(error.value)
    checkpoints.close()
    assert_is(restore(workdir), 3)


# Orbax globs the whole path, tensorstore takes a backslash for a slash, etils "gs:" for a bucket.
NAMES = ["x=[1]", "[!a]", "a\\b", "*", "x?", "{a,b}", "sp ace", "~", "$HOME", "%41", "#", "a|b"]
NAMES += ["new\nline", "gs:", "12:30", "é漢", "-rf", "ocdbt.process_0", "'\"", "x" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(tmp_path, name):
    workdir = tmp_path / "runs" / name / "run"
    workdir.mkdir(parents=True)
    checkpoints = Checkpoints(workdir)
    for step in (1, 2, 3, 4):
        checkpoints.save_last(step, state(step), extra(step))
    checkpoints.save_best(2, state(2), extra(2))
    with pytest.raises(CheckpointError) as error:
        checkpoints.save_last(1, state(1), extra(1))
    assert str(error.value).startswith(f"checkpoint {workdir}/last/1 was not saved")
    checkpoints.close()
    flip(workdir / "last" / "4" / "about" / "metadata")
    assert_is(restore(workdir), 3)
    checkpoints = Checkpoints(workdir)
    assert_is(checkpoints.restore_best(state(0)), 2)
    checkpoints.close()
    assert sorted(path.name for path in workdir.iterdir()) == ["best", "damaged-last-4", "last"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [name]  # nothing beside it


def test_a_link_that_was_needed_is_gone_afterwards(tmp_path, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(links))
    checkpoints = Checkpoints(tmp_path / "[1]")
    [link] = links.glob("*/run")
    assert link.resolve() == tmp_path / "[1]"
    checkpoints.close()
    assert not list(links.iterdir())
    for unsafe in ("[2]", "a\\b"):  # then a temporary folder of the system's
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / unsafe))
        (tmp_path / unsafe).mkdir()
        Checkpoints(tmp_path / "[1]").close()
        assert not list((tmp_path / unsafe).iterdir())


def test_the_first_save_of_a_run_is_read_back_once(tmp_path, monkeypatch):
    real, read = checkpoints_module._read, []

    def counted(manager, step, template):
        read.append(step)
        return real(manager, step, template)

    def spoiled(manager, step, template):
        flip(tmp_path / "last" / str(step) / "about" / "metadata")
        return real(manager, step, template)

    monkeypatch.setattr(checkpoints_module, "_read", spoiled)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=r"last/1 was saved but cannot be read \(.*another d"):
        checkpoints.save_last(1, state(1), extra(1))
    checkpoints.close()
    shutil.rmtree(tmp_path / "last")

    monkeypatch.setattr(checkpoints_module, "_read", counted)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(1, state(1), extra(1))
    checkpoints.save_last(1, state(1), extra(1))
    checkpoints.save_last(2, state(2), extra(2))
    checkpoints.close()
    assert read == [1]
    checkpoints = Checkpoints(tmp_path)
    assert_is(checkpoints.restore_last(state(0)), 2)
    checkpoints.save_last(3, state(3), extra(3))
    checkpoints.close()
    assert read == [1, 2]  # what was restored shows that the folder can be read
