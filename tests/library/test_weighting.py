"""Weights against answers by hand and the T x T form of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cml_jax import gradient_agreement, uniform


def displacements(num_tasks=5, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (num_tasks, 3, 2), "bias": (num_tasks, 2), "scale": (num_tasks,)}
    return {name: jnp.asarray(rng.normal(size=shape) + 0.3) for name, shape in shapes.items()}


def paper_form(tree):
    """Equation 8 with all T x T inner products."""
    g = np.concatenate([np.reshape(x, (x.shape[0], -1)) for x in jax.tree.leaves(tree)], 1)
    agreement = [sum(float(gi @ gj) for gj in g) for gi in g]
    return np.array(agreement) / sum(abs(a) for a in agreement)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_uniform(x64, dtype):
    weights = uniform({"a": jnp.ones((3, 2), dtype), "b": jnp.zeros((3,), dtype)})
    np.testing.assert_array_equal(weights, np.full(3, 1 / 3, dtype))


@pytest.mark.parametrize(
    "g, expected",
    [
        ([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], [1 / 2, 1 / 4, -1 / 4]),
        ([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], [1 / 3, 1 / 3, -1 / 3]),
        ([[3.0, 4.0], [0.0, 0.0]], [1.0, 0.0]),
        ([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], [1 / 4] * 4),
    ],
    ids=["by hand", "a task against the others", "a task that stands still", "identical"],
)
def test_known_answers(x64, g, expected):
    np.testing.assert_allclose(gradient_agreement({"w": jnp.array(g)}), expected, rtol=1e-15)


@pytest.mark.parametrize(
    "g",
    [
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        [[1.0, -2.0], [-2.0, 1.0], [1.0, 1.0]],
        [[0.1, 0.0], [0.2, 0.0], [-0.3, 0.0]],
    ],
    ids=["none", "cancel exactly", "cancel but for rounding"],
)
def test_displacements_that_cancel_give_uniform_weights(g):
    weights = gradient_agreement({"w": jnp.array(g, jnp.float32)})
    np.testing.assert_array_equal(weights, np.full(3, 1 / 3, np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_form_of_the_paper(x64, seed):
    g = displacements(seed=seed)
    weights = jax.jit(gradient_agreement)(g)
    np.testing.assert_allclose(weights, paper_form(g), rtol=1e-12)
    np.testing.assert_allclose(np.abs(weights).sum(), 1, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1e3, 1e15])
def test_a_common_scale_does_not_matter(scale):
    g = jax.tree.map(lambda x: x.astype(jnp.float32), displacements())
    scaled = jax.tree.map(lambda x: scale * x, g)
    np.testing.assert_allclose(gradient_agreement(scaled), gradient_agreement(g), rtol=1e-4)


def test_permuted_tasks_give_permuted_weights(x64):
    g, order = displacements(), np.array([3, 0, 4, 1, 2])
    permuted = gradient_agreement(jax.tree.map(lambda x: x[order], g))
    np.testing.assert_allclose(permuted, gradient_agreement(g)[order], rtol=1e-12)


def test_leaves_that_do_not_adapt_do_not_enter(x64):
    g = displacements()
    np.testing.assert_array_equal(
        gradient_agreement({"body": None, "head": g}), gradient_agreement(g)
    )


def test_weights_are_constants(x64):
    def weighted(g):
        return jnp.sum(gradient_agreement(g) * jnp.arange(5.0))

    for leaf in jax.tree.leaves(jax.grad(weighted)(displacements())):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_low_precision_displacements_are_summed_in_float32():
    g = jax.tree.map(lambda x: x.astype(jnp.bfloat16), displacements())
    weights = gradient_agreement(g)
    assert weights.dtype == jnp.float32
    exact = paper_form(jax.tree.map(lambda x: np.asarray(x, np.float64), g))
    np.testing.assert_allclose(weights, exact, rtol=1e-5)


def by_hand(g, share=1.0, normalized=False, cut=False):
    g = np.concatenate([np.reshape(x, (x.shape[0], -1)) for x in jax.tree.leaves(g)], 1)
    if normalized:
        g = g / np.linalg.norm(g, axis=1, keepdims=True)
    agreement = g @ g.sum(0)
    if cut:
        agreement = np.where(agreement < 0, 0, agreement)
    return share * agreement / np.abs(agreement).sum() + (1 - share) / len(g)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_options(x64, share, normalized, cut):
    g = jax.tree.map(lambda x: x.at[4].set(-0.5 * x[0]).at[3].set(x[0]), displacements())
    options = {"share": share, "normalized": normalized, "cut": cut}
    expected = by_hand(g, **options)
    weights = gradient_agreement(g, **options)
    np.testing.assert_allclose(weights, expected, rtol=1e-12, atol=1e-15)
    if not cut:
        assert (by_hand(g, normalized=normalized) < 0).any()
    traced = jax.jit(lambda share: gradient_agreement(g, **options | {"share": share}))(share)
    np.testing.assert_allclose(traced, expected, rtol=1e-12, atol=1e-15)


def test_a_task_that_stands_still_has_no_direction():
    g = {"w": jnp.array([[1.0, 0.0], [0.0, 0.0]])}
    np.testing.assert_array_equal(gradient_agreement(g, normalized=True), [1.0, 0.0])


@pytest.mark.parametrize("options", [{}, {"share": 0.3}, {"normalized": True, "cut": True}])
def test_matched_is_another_direction_of_the_same_length(x64, options):
    g = jax.tree.map(lambda x: x.at[4].set(-0.5 * x[0]), displacements())
    flat = np.concatenate([np.reshape(x, (x.shape[0], -1)) for x in jax.tree.leaves(g)], 1)
    weights = gradient_agreement(g, **options)
    matched = gradient_agreement(g, **options, matched=True)
    np.testing.assert_allclose(
        np.linalg.norm(matched @ flat), np.linalg.norm(flat.mean(0)), rtol=1e-12
    )
    np.testing.assert_allclose(matched / matched.sum(), weights / weights.sum(), rtol=1e-12)
    assert not np.isclose(np.abs(matched).sum(), 1, rtol=0.01)


@pytest.mark.parametrize("g", [[[0.0], [0.0]], [[1.0], [-1.0]]], ids=["none", "cancel"])
def test_matched_weights_of_nothing_are_finite(g):
    weights = gradient_agreement({"w": jnp.array(g)}, matched=True)
    np.testing.assert_allclose(weights, [0.5, 0.5])
