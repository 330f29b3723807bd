"""Task distributions: exact where they can be, statistical with a fixed seed where they cannot."""

import hashlib
import importlib
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cml_jax.data import load_omniglot
from cml_jax.tasks import (
    ImagePool,
    Members,
    draw_ids,
    episodes,
    glyphs,
    nodes,
    sinusoid,
    sinusoid_curve,
    task_keys,
)
from cml_jax.tasks.members import choose, consecutive_members, members


def coded_images(num_classes=6, num_images=5, side=3, channels=1):
    """Images whose pixels (0, 0), (0, 1) and (1, 0) tell the class, the image and the rotation."""
    images = np.zeros((num_classes, num_images, side, side, channels), np.uint8)
    images[:, :, 0, 0] = np.arange(num_classes)[:, None, None]
    images[:, :, 0, 1] = np.arange(num_images)[None, :, None]
    images[:, :, 1, 0] = 255
    return images


def chi_square(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2).sum() / expected


def below(statistic, cells):
    """Whether a chi-square is within 4 standard deviations of its mean: fails once in 10,000."""
    freedom = cells - 1
    return statistic < freedom + 4 * math.sqrt(2 * freedom)


SAMPLERS = {
    "sinusoid": partial(sinusoid, shots=3, queries=4),
    "episodes": lambda key: episodes(key, jnp.asarray(coded_images()), ways=4, shots=1, queries=3),
    "glyphs": partial(glyphs, ways=2, shots=1, queries=2),
}


# --- what every distribution owes ---


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_task_is_a_function_of_its_key(name):
    sample = jax.jit(jax.vmap(SAMPLERS[name]))
    keys = task_keys(jax.random.key(0), "train", 0, 3)
    tasks = sample(keys)
    chex.assert_trees_all_equal(tasks, sample(keys))
    one = jax.jit(SAMPLERS[name])(keys[1])
    chex.assert_trees_all_close(one, jax.tree.map(lambda x: x[1], tasks), atol=1e-4)
    first, second = (np.asarray(tasks.support.inputs[i]) for i in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("name", SAMPLERS)
def test_leaves_are_float32_inputs_and_jit_does_not_recompile(name):
    sample = jax.jit(SAMPLERS[name])
    task = sample(jax.random.key(1))
    sample(jax.random.key(2))
    assert sample._cache_size() == 1
    assert task.support.inputs.dtype == task.query.inputs.dtype == jnp.float32
    expected = jnp.float32 if name == "sinusoid" else jnp.int32
    assert task.support.targets.dtype == task.query.targets.dtype == expected


# --- the same tasks for ever ---


def digest(tree):
    """Of shapes, dtypes and all bits."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        found.update(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return found.hexdigest()[:16]


def drawn(sample, data):
    keys = task_keys(jax.random.key(3), "train", 7, 40)
    return digest(jax.jit(jax.vmap(sample, (0, None)))(keys, data))


@pytest.mark.parametrize("as_pool", [False, True])
@pytest.mark.parametrize(
    "rotations, ways, shots, queries, expected",
    [
        (False, 5, 1, 3, "31ee3bf2dd6ff1b0"),
        (False, 11, 2, 7, "36606a756e19e886"),
        (True, 5, 1, 3, "0b8e05f183f033b0"),
        (True, 11, 2, 7, "cad9dde55c7f3cbe"),
    ],
)
def test_image_tasks_stay_what_they_were(as_pool, rotations, ways, shots, queries, expected):
    images = np.random.default_rng(0).integers(0, 256, (11, 9, 6, 6, 2), np.uint8)
    if as_pool:
        images = ImagePool(images.reshape(99, 6, 6, 2), consecutive_members([9] * 11))
    shape = {"ways": ways, "shots": shots, "queries": queries, "rotations": rotations}
    assert drawn(partial(episodes, **shape), images) == expected


@pytest.mark.parametrize(
    "noise, expected", [(False, "0945b212b6eaf88c"), (True, "c67e6f237c77fb47")]
)
def test_node_tasks_stay_what_they_were(noise, expected):
    labels = np.random.default_rng(1).integers(-1, 9, 300)
    split = members(labels, [1, 4, 5, 7], at_least=10)
    assert drawn(partial(nodes, ways=3, shots=2, queries=8, noise=noise), split) == expected


OMNIGLOT = {
    "train": ("70182ef6c30505c8", "d7fda84d305bf1f5", "6ccfc54c8fc96322"),
    "validation": ("fbb40305592a6910", "3ebf026c57187c02", "12e8675a4b0398fb"),
    "test": ("4214d6c97c50962d", "9a3be7ea4b0c57f1", "82cd4e28456dbedd"),
}


def test_omniglot_tasks_stay_what_they_were(data_dir, tmp_path, monkeypatch):
    """The pixels by class; tasks without rotations and with."""
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path))
    images = load_omniglot(data_dir)
    for split, expected in OMNIGLOT.items():
        pool = images.split(split)
        found = [digest(pool.pixels[pool.members.ids])]
        for rotations in (False, True):
            shape = {"ways": 20, "shots": 1, "queries": 5, "rotations": rotations}
            found.append(drawn(partial(episodes, **shape), pool))
        assert tuple(found) == expected


# --- keys ---


def test_task_keys_are_stable():
    data = jax.random.key_data(task_keys(jax.random.key(0), "train", 0, 2))
    np.testing.assert_array_equal(data, [[941276958, 1067884796], [285370441, 3749159135]])
    data = jax.random.key_data(task_keys(jax.random.key(7), "test", 5, 1))
    np.testing.assert_array_equal(data, [[3767960712, 3213069877]])


def test_task_keys_do_not_depend_on_how_they_are_read():
    key = jax.random.key(3)
    whole = jax.random.key_data(task_keys(key, "train", 0, 8))
    parts = jax.jit(lambda start: task_keys(key, "train", start, 4))
    np.testing.assert_array_equal(whole[4:], jax.random.key_data(parts(4)))


def test_task_keys_are_disjoint():
    seen = [
        tuple(pair)
        for seed in (0, 1)
        for split in ("train", "validation", "test")
        for pair in np.asarray(
            jax.random.key_data(task_keys(jax.random.key(seed), split, 0, 2000))
        ).tolist()
    ]
    assert len(set(seen)) == len(seen) == 12000


# --- sinusoid ---


@pytest.mark.parametrize("phase", [(0.0, math.pi), (0.0, 2 * math.pi)])
def test_sinusoid_is_its_closed_form(phase):
    """Two values a quarter period apart give A and phase, and these every target."""
    key = jax.random.key(4)
    x = jnp.array([0.0, math.pi / 2], jnp.float32)
    minus_sine, cosine = np.asarray(sinusoid_curve(key, x, phase=phase), np.float64)
    amplitude = math.hypot(minus_sine, cosine)
    shift = math.atan2(-minus_sine, cosine) % (2 * math.pi)
    assert 0.1 <= amplitude <= 5.0 and phase[0] <= shift <= phase[1]
    task = sinusoid(key, shots=10, queries=20, phase=phase)
    for batch, n in zip(task, (10, 20), strict=True):
        assert batch.inputs.shape == batch.targets.shape == (n, 1)
        expected = amplitude * np.sin(np.asarray(batch.inputs, np.float64) - shift)
        np.testing.assert_allclose(batch.targets, expected, atol=1e-5)


def test_sinusoid_ranges_are_uniform():
    keys = task_keys(jax.random.key(5), "train", 0, 8000)
    at = jax.vmap(lambda k: sinusoid_curve(k, jnp.array([0.0, math.pi / 2], jnp.float32)))(keys)
    minus_sine, cosine = np.asarray(at).T
    draws = {
        "amplitude": (np.hypot(minus_sine, cosine), 0.1, 5.0),
        "phase": (np.arctan2(-minus_sine, cosine), 0.0, math.pi),
        "inputs": (jax.vmap(partial(sinusoid, shots=1, queries=1))(keys).support.inputs, -5.0, 5.0),
    }
    for name, (values, low, high) in draws.items():
        values = np.asarray(values).ravel()
        assert values.min() >= low - 1e-5 and values.max() <= high + 1e-5, name
        counts = np.histogram(values, 20, (low, high))[0]
        assert below(chi_square(counts), 20), name


def test_sinusoid_support_does_not_depend_on_queries():
    a, b = (sinusoid(jax.random.key(6), shots=5, queries=q) for q in (1, 9))
    chex.assert_trees_all_equal(a.support, b.support)
    assert not np.isin(np.asarray(a.query.inputs), np.asarray(a.support.inputs)).any()


# --- episodes ---


@pytest.mark.parametrize("n, k", [(4, 2), (5, 3), (4, 4), (1, 1)])
def test_choose_is_uniform_over_ordered_subsets(n, k):
    draws = jax.vmap(lambda key: choose(key, n, k))(jax.random.split(jax.random.key(0), 24000))
    ordered, counts = np.unique(np.asarray(draws), axis=0, return_counts=True)
    assert all(len(set(row)) == k for row in ordered.tolist())
    assert len(ordered) == math.perm(n, k)
    assert below(chi_square(counts), counts.size) or counts.size == 1


@pytest.mark.parametrize("n, k", [(4400, 5), (600, 100), (20, 20)])
def test_choose_never_repeats(n, k):
    draws = jax.jit(jax.vmap(lambda key: choose(key, n, k)))(
        jax.random.split(jax.random.key(1), 500)
    )
    draws = np.sort(np.asarray(draws), axis=1)
    assert (np.diff(draws, axis=1) > 0).all() and draws.min() >= 0 and draws.max() < n
    assert draws.max() >= 0.99 * (n - 1)


def test_episode_images_are_those_of_its_classes():
    images = jnp.asarray(coded_images(num_classes=6, num_images=5, channels=3))
    sample = jax.jit(jax.vmap(partial(episodes, ways=4, shots=2, queries=3), (0, None)))
    tasks = sample(jax.random.split(jax.random.key(2), 200), images)
    chex.assert_shape(tasks.support.inputs, (200, 8, 3, 3, 3))
    chex.assert_shape(tasks.query.inputs, (200, 12, 3, 3, 3))
    codes = [np.rint(np.asarray(b.inputs) * 255).astype(int)[..., 0] for b in tasks]
    for t in range(200):
        seen = []
        classes = {}
        for batch, code in zip(tasks, codes, strict=True):
            for label, example in zip(np.asarray(batch.targets[t]).tolist(), code[t], strict=True):
                assert classes.setdefault(label, example[0, 0]) == example[0, 0]
                assert example[1, 0] == 255
                seen.append((example[0, 0], example[0, 1]))
        assert sorted(classes) == [0, 1, 2, 3] and len(set(classes.values())) == 4
        assert len(set(seen)) == len(seen) == 4 * 5
    np.testing.assert_array_equal(tasks.support.targets[0], np.repeat(np.arange(4), 2))
    np.testing.assert_array_equal(tasks.query.targets[0], np.repeat(np.arange(4), 3))


@pytest.mark.slow
def test_images_may_be_numpy_wherever_tasks_are_drawn():
    """As a user first writes it: eagerly, as an argument or closed over, under vmap and jit."""
    images = coded_images()
    pool = ImagePool(images.reshape(30, 3, 3, 1), consecutive_members([5] * 6))
    keys = jax.random.split(jax.random.key(0), 3)
    draw = partial(episodes, ways=3, shots=1, queries=2)
    expected = jax.vmap(draw, (0, None))(keys, jnp.asarray(images))
    for data in (images, pool, jax.tree.map(jnp.asarray, pool)):
        closed = partial(draw, images=data)
        for sample in (
            jax.vmap(closed),
            jax.jit(jax.vmap(closed)),
            jax.vmap(jax.jit(closed)),
            lambda keys, data=data: jax.vmap(draw, (0, None))(keys, data),
            lambda keys, data=data: jax.jit(jax.vmap(draw, (0, None)))(keys, data),
            lambda keys, closed=closed: jax.lax.map(closed, keys),
            lambda keys, closed=closed: jax.tree.map(
                lambda *tasks: np.stack(tasks), *map(closed, keys)
            ),
        ):
            chex.assert_trees_all_equal(sample(keys), expected)


@pytest.mark.parametrize("rotations", [False, True])
def test_classes_of_unequal_size(rotations):
    """Every image is drawn, at the rate of its class, and none is in support and query at once."""
    counts = [4, 9, 5]
    pixels = np.zeros((18, 2, 2, 1), np.uint8)
    pixels[:, 0, 0, 0] = 1 + np.arange(18)
    pool = ImagePool(pixels, consecutive_members(counts))
    draw = partial(episodes, ways=2, shots=1, queries=3, rotations=rotations)
    keys = jax.random.split(jax.random.key(0), 4000)
    tasks = jax.jit(jax.vmap(draw, (0, None)))(keys, pool)
    support, query = (np.rint(np.asarray(b.inputs).max((2, 3, 4)) * 255) - 1 for b in tasks)
    drawn = np.concatenate([support[:, :, None], query.reshape(4000, 2, 3)], 2).astype(int)
    assert (np.diff(np.sort(drawn, axis=2), axis=2) > 0).all()
    of_class = np.repeat(np.arange(3), counts)
    assert (of_class[drawn] == of_class[drawn[..., :1]]).all()
    for c, count in enumerate(counts):
        hits = np.bincount(support[:, 0].astype(int), minlength=18)[of_class == c]
        rate = 4000 / 3 / count
        assert (abs(hits - rate) < 5 * np.sqrt(rate)).all()


def test_a_class_that_is_too_small_is_an_error_or_nan_and_never_drawn_twice():
    pool = ImagePool(np.full((9, 2, 2, 1), 255, np.uint8), consecutive_members([3, 6]))
    draw = partial(episodes, ways=2, shots=1, queries=4)
    with pytest.raises(ValueError, match=r"shots=1 \+ queries=4 but a class has 3 examples: lower"):
        draw(jax.random.key(0), pool)
    task = jax.jit(draw)(jax.random.key(0), pool)
    small = np.isnan(np.asarray(task.support.inputs)).all((1, 2, 3))
    assert sorted(small) == [False, True]
    np.testing.assert_array_equal(
        np.isnan(np.asarray(task.query.inputs)).any((1, 2, 3)), np.repeat(small, 4)
    )
    assert (np.asarray(task.support.inputs)[~small] == 1).all()


def test_draw_ids_says_which_classes_it_drew():
    split = Members(np.array([[7, 3, 0], [1, 2, 4]], np.int32), np.array([2, 3], np.int32))
    keys = jax.random.split(jax.random.key(0), 8 + 1)
    drawn = draw_ids(keys, split, ways=8, shots=1, queries=1, copies=4)
    rows = [{7, 3}, {1, 2, 4}]
    for ids, c in zip(np.asarray(drawn.ids), np.asarray(drawn.classes), strict=True):
        assert set(ids.tolist()) <= rows[c]
    pairs = set(zip(drawn.classes.tolist(), drawn.copies.tolist(), strict=True))
    assert pairs == {(c, copy) for c in range(2) for copy in range(4)}


def test_every_class_gets_every_label_and_every_image_both_roles():
    images = jnp.asarray(coded_images())
    sample = jax.jit(jax.vmap(partial(episodes, ways=2, shots=1, queries=1), (0, None)))
    tasks = sample(jax.random.split(jax.random.key(3), 6000), images)
    codes = [np.rint(np.asarray(b.inputs) * 255).astype(int) for b in tasks]
    counts = np.zeros((2, 2, 6, 5))  # role, label, class, image
    for role, code in enumerate(codes):
        for label in range(2):
            np.add.at(counts[role, label], (code[:, label, 0, 0, 0], code[:, label, 0, 1, 0]), 1)
    for role in range(2):
        for label in range(2):
            assert below(chi_square(counts[role, label]), 30)


def test_rotations_are_classes_of_their_own():
    images = coded_images(num_classes=2, num_images=3)
    task = episodes(
        jax.random.key(0), jnp.asarray(images), ways=8, shots=1, queries=2, rotations=True
    )
    found = set()
    for label in range(8):
        drawn = [np.rint(np.asarray(b.inputs[np.asarray(b.targets) == label]) * 255) for b in task]
        matches = {
            (c, r)
            for c in range(2)
            for r in range(4)
            if all(
                any((np.rot90(image, r) == example).all() for image in images[c])
                for example in np.concatenate(drawn)
            )
        }
        assert len(matches) == 1
        found |= matches
    assert len(found) == 8


def test_white_is_one():
    images = jnp.full((1, 2, 2, 2, 1), 255, jnp.uint8)
    task = episodes(jax.random.key(0), images, ways=1, shots=1, queries=1)
    assert (np.asarray(task.support.inputs) == 1).all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"ways": 7}, "ways=7 but there are 6 classes: lower ways or choose data with more"),
        ({"shots": 4}, r"shots=4 \+ queries=2 but a class has 5 examples: lower shots or queries"),
        ({"queries": 0}, "ways=2, shots=1, queries=0: an episode needs at least 1 of each"),
        ({"images": jnp.zeros((6, 5, 3, 3, 1))}, "float32 .* pass uint8"),
        ({"images": jnp.zeros((6, 5, 3, 3), jnp.uint8)}, "pass uint8 .classes, images, h, w, c"),
        (
            {"images": jnp.zeros((6, 5, 3, 4, 1), jnp.uint8), "rotations": True},
            "rotations of 3 x 4 images: pass square ones or turn it off",
        ),
    ],
)
def test_impossible_episodes_say_so_in_one_line(wrong, message):
    arguments = {"images": jnp.asarray(coded_images()), "ways": 2, "shots": 1, "queries": 2} | wrong
    images = arguments.pop("images")
    with pytest.raises(ValueError, match=message) as error:
        jax.jit(partial(episodes, **arguments))(jax.random.key(0), images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sample", [sinusoid, partial(glyphs, ways=2)])
def test_counts_below_one_say_so_in_one_line(sample):
    with pytest.raises(ValueError, match="shots=0, queries=1.*at least 1"):
        sample(jax.random.key(0), shots=0, queries=1)


# --- glyphs ---


@pytest.fixture(scope="module")
def sheet():
    """Drawings `[class, drawing, 28, 28]`."""
    task = jax.jit(partial(glyphs, ways=100, shots=4, queries=4))(jax.random.key(0))
    return np.concatenate([np.asarray(b.inputs).reshape(100, 4, 28, 28) for b in task], axis=1)


def test_glyphs_are_ink_on_paper(sheet):
    assert sheet.min() == 0 and sheet.max() == 1
    ink = sheet.mean((2, 3))
    assert 0.005 < ink.min() and ink.max() < 0.25 and 0.03 < ink.mean() < 0.1
    assert (sheet.max((2, 3)) > 0.7).all(), "every drawing has a stroke that can be seen"
    edge = np.concatenate([sheet[..., 0, :], sheet[..., -1, :], sheet[..., 0], sheet[..., -1]])
    assert edge.mean() < 0.005, "drawings keep to the sheet"


def test_drawings_of_a_class_differ_but_less_than_classes_do(sheet):
    flat = sheet.reshape(100, 8, -1)
    distance = np.linalg.norm(flat[:, None, 0] - flat[None, :, 1], axis=-1)
    within = np.diagonal(distance)
    assert within.min() > 0.5
    between = distance.sum(1) / 99 - within / 99
    margin = between - within
    assert margin.mean() > 4 * margin.std(ddof=1) / math.sqrt(100)


def test_nearest_neighbours_find_glyphs_neither_trivial_nor_hopeless():
    def accuracy(key):
        support, query = glyphs(key, ways=5, shots=1, queries=2)
        a, b = support.inputs.reshape(5, -1), query.inputs.reshape(10, -1)
        nearest = jnp.square(b[:, None] - a[None]).sum(-1).argmin(1)
        return (support.targets[nearest] == query.targets).astype(jnp.float32).mean()

    values = jax.jit(jax.vmap(accuracy))(task_keys(jax.random.key(0), "test", 0, 300))
    assert 0.33 < float(values.mean()) < 0.6


def test_glyphs_scale_with_the_sheet():
    small, large = (
        np.asarray(
            jax.jit(partial(glyphs, ways=9, shots=1, queries=1, size=s))(
                jax.random.key(1)
            ).support.inputs
        )
        for s in (28, 56)
    )
    assert large.shape == (9, 56, 56, 1)
    halved = large.reshape(9, 28, 2, 28, 2).mean((2, 4))
    difference = np.abs(halved - small[..., 0]).mean((1, 2))
    assert (difference < 0.25 * small.mean((1, 2, 3))).all()


def test_strokes_are_lines_not_dots(sheet, monkeypatch):
    """Ten times the points on a path draw nearly the same picture."""
    monkeypatch.setattr(importlib.import_module("cml_jax.tasks.glyphs"), "_PATH_POINTS", 320)
    support = jax.jit(lambda key: glyphs(key, ways=100, shots=4, queries=4))(jax.random.key(0))[0]
    fine = np.asarray(support.inputs).reshape(100, 4, 28, 28)
    assert 0 < np.abs(fine - sheet[:, :4]).max() < 0.3
