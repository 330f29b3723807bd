"""Each file of a checkpoint damaged: the state comes back right, or the one before, or an error."""

import random
import shutil

import pytest
from support.checkpoint_files import assert_is, files, restore
from support.fuzz import damages

from experiments.run_folder.checkpoints import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CASES = 80


def swap(folder, rng):
    """A file of this checkpoint with that of another file, of this or of the one before."""
    a, b = rng.sample(files(folder.parent), 2)
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_bytes)
    b.write_bytes(a_bytes)


def folder_instead(folder, rng):
    path = rng.choice(files(folder))
    path.unlink()
    path.mkdir()


DAMAGES = (
    damages.truncate,
    damages.flip,
    damages.noise,
    damages.number,
    damages.vanish,
    damages.bad_json,
)
DAMAGES += (swap, folder_instead)


@pytest.mark.parametrize("part", range(4))
def test_damaged(saved, tmp_path, part):
    newest = older = refused = 0
    for seed in range(part, CASES, 4):
        rng = random.Random(seed)
        workdir = shutil.copytree(saved, tmp_path / str(seed))
        DAMAGES[seed // 4 % len(DAMAGES)](workdir / "last" / "3", rng)
        if rng.random() < 0.1:
            for step in "12":
                DAMAGES[seed % 5](workdir / "last" / step, rng)
        before = {path.name for path in tmp_path.iterdir()}
        try:
            restored = restore(workdir)
        except CheckpointError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            refused += 1
        else:
            assert restored[0] in (1, 2, 3)
            assert_is(restored, restored[0])
            newest, older = newest + (restored[0] == 3), older + (restored[0] < 3)
        assert {path.name for path in tmp_path.iterdir()} == before
        shutil.rmtree(workdir)
    assert newest and older
