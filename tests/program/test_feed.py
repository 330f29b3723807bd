"""Images gathered on the host: the same runs, bit for bit, as with the pool on the devices."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support.battery import assert_same
from support.runs import rows, tested, trained

import cml_jax
from cml_jax.data import Images, Split
from cml_jax.tasks import ImagePool
from cml_jax.tasks.members import consecutive_members
from experiments.choices.data_sets import DATA_SETS
from experiments.choices.key import ConfigError
from experiments.machine import feed, memory
from experiments.machine.devices import make_plan
from experiments.settings.checks import check
from experiments.settings.config import default_config

COUNTS = (6, 9, 7, 6, 8, 6, 7, 9, 6)


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Noise in nine classes of unequal size, three a split, which may be turned."""
    pixels = np.random.default_rng(0).integers(0, 256, (sum(COUNTS), 8, 8, 1), np.uint8)
    names = Split(("a", "b", "c"), ("d", "e", "f"), ("g", "h", "i"))
    images = Images(pixels, consecutive_members(COUNTS), names, "made", "hash")
    monkeypatch.setattr(cml_jax.data, "load_made", lambda data_dir: images, raising=False)
    row = DATA_SETS["omniglot"]._replace(load="cml_jax.data:load_made")
    monkeypatch.setitem(DATA_SETS, "omniglot", row)


def config(**changes):
    made = default_config()
    made.data.name, made.data.ways, made.data.shots = "omniglot", 2, 1
    made.data.queries = made.eval.queries = 2
    made.model.filters, made.model.pool = 4, False
    made.tasks_per_step, made.train_steps, made.eval.every = 4, 7, 4
    made.eval.validation_tasks, made.eval.num_tasks, made.eval.num_steps = 6, 41, (1,)
    made.plan.compilation_cache = False
    with made.unlocked():
        made.update_from_flattened_dict(changes)
    check(made)
    return made


def outcome(workdir, **changes):
    assert trained(config(**changes), workdir)
    tested(config(**changes), workdir)
    results = json.loads((workdir / "results.json").read_text())
    validated = [
        row["validation/accuracy"] for row in rows(workdir) if "validation/accuracy" in row
    ]
    assert len(validated) == 2
    return validated, results["test_all"], results["plan"]


def assert_alike(actual, expected):
    """Up to rounding, since the two ways are two programs: a few of the 24 predictions of a
    validation, and of the 164 of a test, may go the other way."""
    assert actual[0] == pytest.approx(expected[0], abs=0.1)
    for test, other in zip(actual[1], expected[1], strict=True):
        for name in ("predicts", "num_steps", "transductive", "num_tasks"):
            assert test[name] == other[name]
        assert test["accuracy"] == pytest.approx(other["accuracy"], abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "block"), [(1, 1 << 28), (1, 1), (2, 1 << 12)])
def test_the_same_run(tmp_path, monkeypatch, devices, block):
    """With blocks of one step, of some, and larger than what is left of an epoch."""
    monkeypatch.setattr(feed, "_BLOCK", block)
    changes = {"plan.devices": devices, "plan.steps_per_dispatch": 3, "data.rotations": True}
    on_device = outcome(tmp_path / "device", **changes)
    on_host = outcome(tmp_path / "host", **changes, **{"plan.images": "host"})
    assert_alike(on_host, on_device)
    assert "images gathered on the host" in on_host[2]
    assert "host" not in on_device[2]


@pytest.mark.slow
def test_the_same_analyses(tmp_path):
    changes = {"method": "fomaml", "train_steps": 4, "eval.analyze_every": 4}
    for where in ("device", "host"):
        assert trained(config(**changes, **{"plan.images": where}), tmp_path / where)
    on_device, on_host = rows(tmp_path / "device"), rows(tmp_path / "host")
    # Up to rounding, as in `assert_alike`; a correlation near 0 is a difference of large sums.
    assert on_host == [pytest.approx(row, rel=1e-3, abs=1e-3) for row in on_device]
    assert "analysis/step_length" in on_host[-1]


@pytest.mark.slow
def test_a_run_may_go_on_the_other_way(tmp_path):
    straight = outcome(tmp_path / "straight")
    assert trained(config(train_steps=4), tmp_path / "both")
    both = outcome(tmp_path / "both", **{"plan.images": "host"})
    assert_alike(both, straight)


def test_the_next_block_is_gathered_ahead(monkeypatch):
    """In the order of training, nothing is gathered twice; tasks are those of the pool."""
    images = cml_jax.data.load_made(None)
    shape = {"ways": 2, "shots": 1, "queries": 1, "rotations": True}

    def draw(key, members, split):
        return cml_jax.tasks.drawn_episode(key, members, **shape)

    @jax.jit
    def task(start, data, row):
        key = cml_jax.tasks.task_keys(jax.random.key(0), "train", start, 1)[0]
        if row is not None:
            data = jax.tree.map(lambda x: x[row, 0], data)
        return cml_jax.tasks.episodes(key, data, **shape)

    plan = make_plan(4, devices=2)._replace(gather=True)
    source = feed.Feed(images.train, plan, draw, "train", 0)
    begun, gather = [], source._gather
    monkeypatch.setattr(source, "_gather", lambda *what: begun.append(what) or gather(*what))
    source.tasks(0, 3, 4, 0)
    for start, used in ((0, 3), (12, 1), (16, 3)):
        block = source.tasks(start, 3, 4, used)
        assert block.pixels.shape == (3, 4, 2, 2, 8, 8, 1)
        assert len(block.pixels.sharding.device_set) == 2
        assert_same(task(start + 4, block, 1), task(start + 4, images.train, None))
    source.close()
    assert begun[:3] == [(start, 3, 4) for start in (0, 12, 16)]
    assert begun[3:] in ([], [(28, 3, 4)])  # the last may not have begun


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_seeds": 2}, "there are several replicas"),
        ({"data.name": "glyphs"}, "the data are not images"),
    ],
)
def test_what_cannot_be_gathered_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=f"plan.images=host but {message}: leave it out"):
        trained(config(**changes, **{"plan.images": "host"}), tmp_path)


@pytest.mark.parametrize(
    ("backend", "limit", "on_host"),
    [("cpu", 1, False), ("gpu", 1 << 30, False), ("gpu", 10_000, True), ("gpu", 0, False)],
)
def test_auto_gathers_where_a_split_fills_an_accelerator(monkeypatch, backend, limit, on_host):
    monkeypatch.setattr(feed, "jax", SimpleNamespace(default_backend=lambda: backend))
    monkeypatch.setattr(memory, "memory_limit", lambda: limit)
    pool = ImagePool(np.zeros((100, 8, 8, 1), np.uint8), consecutive_members([50, 50]))
    assert feed.gather_on_host("auto", {"train": pool}, print, 1) is on_host
