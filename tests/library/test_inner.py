"""The inner loop against a loop by hand and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from support.battery import assert_close, assert_same, finite_difference

from cml_jax.inner import check_differentiable, gradient_descent, sgd

PARAMS = {"body": {"w": np.array([0.3, -0.7])}, "head": {"w": np.array([0.5, 0.2])}}


def loss(params):
    """Smooth, not quadratic, and mixing body and head."""
    body, head = params["body"]["w"], params["head"]["w"]
    return jnp.sum(jnp.sin(body) * jnp.exp(head)) + jnp.sum(body**4) + jnp.sum(head * body[::-1])


@pytest.fixture
def params(x64):
    return jax.tree.map(jnp.asarray, PARAMS)


def test_three_sgd_steps_by_hand(params):
    expected = params
    for _ in range(3):
        gradient = jax.grad(loss)(expected)
        expected = jax.tree.map(lambda p, g: p - 0.1 * g, expected, gradient)
    assert_close(gradient_descent(loss, params, sgd(0.1), 3), expected, 1e-14)


def test_rates_may_be_a_prefix_tree_and_a_zero_rate_is_a_frozen_part(params):
    by_rate = gradient_descent(loss, params, sgd({"body": 0.0, "head": 0.1}), 3)
    frozen = gradient_descent(loss, params, sgd(0.1), 3, adapts={"body": False, "head": True})
    assert_same(by_rate["body"], params["body"])
    assert_close(frozen["head"], by_rate["head"], 1e-14)


@pytest.mark.parametrize("adapts", [{"body": False, "head": True}, {"body": True, "head": False}])
def test_frozen_leaves_are_the_very_leaves(params, adapts):
    adapted = gradient_descent(loss, params, sgd(0.1), 2, adapts=adapts)
    for part, adapting in adapts.items():
        assert (adapted[part]["w"] is params[part]["w"]) != adapting


def test_no_steps_return_the_parameters(params):
    assert_same(gradient_descent(loss, params, sgd(0.1), 0), params)


@pytest.mark.parametrize(
    "optimizer", [sgd(0.1), optax.sgd(0.1, momentum=0.9), optax.adam(0.05, eps_root=1e-8)]
)
@pytest.mark.parametrize("remat", [False, True])
def test_it_differentiates_through_every_step(params, optimizer, remat):
    def after(params):
        return loss(gradient_descent(loss, params, optimizer, 4, remat=remat))

    expected = finite_difference(after, params)
    assert_close(jax.jit(jax.grad(after))(params), expected, 1e-6)


def test_first_order_has_the_identity_as_jacobian(params):
    flat, unravel = ravel_pytree(params)

    def adapt(flat, first_order):
        adapted = gradient_descent(loss, unravel(flat), sgd(0.1), 3, first_order=first_order)
        return ravel_pytree(adapted)[0]

    np.testing.assert_array_equal(jax.jacobian(adapt)(flat, True), np.eye(4))
    assert np.abs(jax.jacobian(adapt)(flat, False) - np.eye(4)).max() > 0.1
    # The values are those of the second order: only the derivative differs.
    np.testing.assert_array_equal(adapt(flat, True), adapt(flat, False))


def test_first_order_cuts_the_path_through_frozen_parts(params):
    def after(params):
        adapted = gradient_descent(
            loss, params, sgd(0.1), 2, adapts={"body": True, "head": False}, first_order=True
        )
        return jnp.sum(adapted["body"]["w"] ** 2)

    assert_same(jax.grad(after)(params)["head"]["w"], np.zeros(2))


def test_a_dead_unit_leaves_adam_finite(params):
    def dead(params):
        return jnp.sum(params["head"]["w"] ** 2) + 0.0 * jnp.sum(params["body"]["w"])

    def after(params):
        return dead(gradient_descent(dead, params, optax.adam(0.05, eps_root=1e-8), 2))

    for leaf in jax.tree.leaves(jax.grad(after)(params)):
        assert np.isfinite(leaf).all()


LABELS = {"body": "slow", "head": "fast"}


def by_part(**settings):
    rules = {"slow": optax.sgd(0.1), "fast": optax.adam(0.1, **settings)}
    return optax.multi_transform(rules, LABELS)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1, momentum=0.9),
        optax.adam(0.1, eps_root=1e-8),
        optax.rmsprop(0.1),
        optax.adagrad(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        by_part(eps_root=1e-8),
    ],
    ids=["momentum", "adam", "rmsprop", "adagrad", "clipped", "by part"],
)
def test_differentiable_optimisers_are_taken(params, optimizer):
    check_differentiable(optimizer, params)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1),
        optax.adamw(0.1, b1=0.0),
        optax.rmsprop(0.1, eps_in_sqrt=False),
        optax.adagrad(0.1, initial_accumulator_value=0.0, eps=0.0),
        by_part(),
    ],
    ids=["adam", "adamw", "rmsprop", "adagrad", "by part"],
)
def test_optimisers_without_a_derivative_at_zero_are_refused(params, optimizer):
    with pytest.raises(ValueError, match="optimizer: .* eps_root=1e-8") as error:
        check_differentiable(optimizer, params)
    assert "\n" not in str(error.value)


def test_what_is_traced_of_an_optimiser_may_be(params):
    def check(rate, step):
        check_differentiable(optax.adam(lambda _: rate / (1.0 + step), eps_root=1e-8), params)
        with pytest.raises(ValueError, match="eps_root"):
            check_differentiable(optax.adam(rate), params)
        return rate

    jax.jit(jax.vmap(jax.grad(check)))(jnp.ones(2), jnp.ones(2))


def test_a_traced_learning_rate_has_its_derivative(params):
    def after(rate):
        return loss(gradient_descent(loss, params, sgd(rate), 3))

    rate = jnp.float64(0.1)
    assert_close(jax.jit(jax.grad(after))(rate), finite_difference(after, rate), 1e-8)


def test_negative_steps_are_named(params):
    with pytest.raises(ValueError, match="num_steps=-1"):
        gradient_descent(loss, params, sgd(0.1), -1)


@pytest.mark.parametrize("adapts", [{"body": True}, {"body": True, "tail": True}, [True, False]])
def test_adapts_must_be_a_prefix(params, adapts):
    with pytest.raises(ValueError, match=r"adapts=.*\['body', 'head'\]") as error:
        gradient_descent(loss, params, sgd(0.1), 1, adapts=adapts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rate", [{"body": 0.1}, {"body": 0.1, "tail": 0.1}])
def test_rates_must_be_a_prefix(params, rate):
    with pytest.raises(ValueError, match="learning_rate"):
        gradient_descent(loss, params, sgd(rate), 1)
