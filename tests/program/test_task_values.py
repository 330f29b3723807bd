"""What every test task got: written with the results, and read only where it is theirs."""

import numpy as np
import pytest
from support.runs import sinusoids, tested, trained

from experiments.run_folder.results import read_results
from experiments.run_folder.task_values import read_task_values


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = sinusoids(num_seeds=3, co_learner="mlp")
    assert trained(config, workdir)
    tested(config, workdir)
    return workdir


def test_they_are_what_the_results_are_made_of(workdir):
    results = read_results(workdir)
    values = read_task_values(workdir, results)
    assert len(values) == len(results.test_all) >= 2
    for array, test in zip(values, results.test_all, strict=True):
        assert array.shape == (3, 4) and array.dtype == np.float32
        assert array.mean(dtype=float) == pytest.approx(test["mse"], rel=1e-6)
    assert not (values[0] == values[1]).all()


@pytest.mark.parametrize("damage", ["missing", "cut", "exchanged", "fewer", "pickle"])
def test_others_are_refused(workdir, tmp_path, damage):
    results = read_results(workdir)
    path = tmp_path / "task_values.npz"
    path.write_bytes((workdir / path.name).read_bytes())
    arrays = dict(np.load(path))
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "exchanged":
        np.savez(path, **arrays | {"test_0": arrays["test_1"]})
    elif damage == "fewer":
        np.savez(path, **arrays | {"test_0": arrays["test_0"][:, :3]})
    else:
        np.savez(path, **arrays | {"test_0": np.array([[{}]])})
    with pytest.raises(ValueError, match="--evaluate to have it made again") as error:
        read_task_values(tmp_path, results)
    assert "\n" not in str(error.value)
