"""Training that starts from the body of another run's best network."""

import json
import shutil

import jax
import numpy as np
import pytest
from support.battery import assert_same
from support.runs import sinusoids, trained

import experiments
from experiments.run import assemble
from experiments.run_folder.checkpoints import Checkpoints, read_best
from experiments.run_folder.init_from import with_body_of
from experiments.settings.config import ConfigError
from experiments.train import initial_state


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trained runs: one of MAML, one of Reptile, which carries named tuples, and two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in {
        "maml": sinusoids(seed=5),
        "reptile [1]": sinusoids("reptile", seed=6),
        "two": sinusoids(seed=7, num_seeds=2),
    }.items():
        assert trained(config, folder / name)
    return folder


def first_state(**changes):
    return initial_state(assemble(sinusoids(**changes)).learner, None)


def body_of(workdir, **changes):
    """The best body of a run, read by the reader that knows its shapes."""
    template = first_state(**changes).params
    checkpoints = Checkpoints(workdir)
    _, tree, _ = checkpoints.restore_best({"params": template})
    checkpoints.close()
    return tree["params"]["base"]["body"]


@pytest.mark.parametrize("name, method", [("maml", "maml"), ("reptile [1]", "reptile")])
def test_the_body_is_the_other_runs_and_the_rest_is_as_without(runs, name, method):
    before = first_state(co_learner="mlp", method="anil")
    after = with_body_of(str(runs / name), before)
    found = after.params["base"].pop("body")
    assert_same(found, body_of(runs / name, method=method))
    started = before.params["base"].pop("body")
    assert not np.allclose(
        found["Linear_0"]["Dense_0"]["kernel"], started["Linear_0"]["Dense_0"]["kernel"]
    )
    assert_same(after, before)


def test_seeds_get_their_own_body_or_all_the_same(runs):
    before = first_state(num_seeds=2)
    own = with_body_of(str(runs / "two"), before).params["base"]["body"]
    assert_same(own, body_of(runs / "two", num_seeds=2))
    same = with_body_of(str(runs / "maml"), before).params["base"]["body"]
    one = body_of(runs / "maml")
    assert_same(same, jax.tree.map(lambda x: np.stack([x, x]), one))


@pytest.mark.parametrize(
    "name, changes, message",
    [
        (
            "maml",
            {"model.hidden": (8, 9)},
            r"body\['Linear_1'\]\['Dense_0'\]\['bias'\] is float32 \(8,\) there and float32 \(9,\)",
        ),
        ("maml", {"model.hidden": (8,)}, r"body\['Linear_1'\].*\['bias'\] is .* and missing here"),
        ("maml", {"model.hidden": (8, 8, 8)}, r"body\['Linear_2'\].* is missing there and"),
        ("two", {"num_seeds": 3}, r"body\['Linear_0'\].* is float32 \(2, 8\) there and"),
        ("none", {}, "none has no best checkpoint: train it first"),
    ],
)
def test_what_does_not_fit_is_one_line(runs, name, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        with_body_of(str(runs / name), first_state(**changes))
    assert str(error.value).startswith("init_from=") and "\n" not in str(error.value)


def test_a_damaged_checkpoint_is_told_and_left(runs, tmp_path):
    shutil.copytree(runs / "maml" / "best", tmp_path / "best")
    files = [path for path in tmp_path.rglob("state/**/*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 255
    largest.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        with_body_of(str(tmp_path), first_state())
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_run_starts_there_once_and_keeps_to_it(runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(runs / "maml", other)
    changes = {"init_from": str(other), "outer_learning_rate": 1e-10, "train_steps": 6}
    results = experiments.run(sinusoids(**changes), tmp_path / "run")
    assert results is not None and results.protocol["init_from"] == str(other)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["init_from"] == str(other)
    found = read_best(tmp_path / "run")
    path = "['params']['base']['body']['Linear_0']['Dense_0']['kernel']"
    np.testing.assert_allclose(found[path], read_best(other)[path], atol=1e-6)

    shutil.rmtree(other)  # a run that goes on does not read it again
    longer = sinusoids(**changes | {"train_steps": 9})
    assert experiments.run(longer, tmp_path / "run", accept_changes=True) is not None
    for changed in ("", "elsewhere"):
        config = sinusoids(**changes | {"init_from": changed, "train_steps": 9})
        with pytest.raises(ConfigError, match=f"init_from={changed!r} but .* was started with"):
            experiments.run(config, tmp_path / "run", accept_changes=True)


def test_a_run_that_cannot_start_there_has_not_begun(runs, tmp_path):
    wrong = sinusoids(init_from=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no best checkpoint"):
        experiments.run(wrong, tmp_path / "run")
    assert experiments.run(sinusoids(), tmp_path / "run") is not None
