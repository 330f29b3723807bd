"""The inner loop against a loop by hand and finite differences."""

from collections import OrderedDict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.flatten_util import ravel_pytree
from support.battery import (
    CO_LEARNER,
    MODEL,
    assert_close,
    assert_same,
    finite_difference,
    first,
    meta_gradient,
    sinusoids,
)

from cml_jax import clipping, cml, cross_entropy, fomaml, maml, reptile, squared_error
from cml_jax.inner import check_differentiable, gradient_descent, select, sgd
from cml_jax.models import conv4
from cml_jax.tasks import glyphs

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


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("optimizer", [sgd(0.1), optax.adam(0.05, eps_root=1e-8)])
def test_one_program_does_any_number_of_steps(params, optimizer, numbered):
    def of_step(params, number=0):
        return jnp.asarray(1 + number, float) * loss(params)

    first = 2 if numbered else None
    run = partial(gradient_descent, of_step, optimizer=optimizer, first_step=first)
    run_traced = jax.jit(lambda params, k: run(params, num_steps=k))
    for k in (0, 1, 4):
        assert_close(run_traced(params, k), run(params, num_steps=k), 1e-12)
    assert run_traced._cache_size() == 1
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(lambda params: loss(run_traced(params, 1)))(params)


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
        by_part(eps_root=1e-8),
    ],
    ids=["momentum", "adam", "rmsprop", "adagrad", "by part"],
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


@pytest.mark.parametrize(
    "given, said",
    [
        ({"body": 1}, r"={'body': 1} lacks \['head'\]: give"),
        ({"body": 1, "tail": 0}, r" lacks \['head'\] and names \['tail'\], which the"),
        ([1, 0], r"=\[1, 0\] lacks \['body'\], \['head'\] and names \[0\], \[1\], which"),
        ({"body": {}, "head": 1}, r" lacks \['body'\]\['w'\]: give"),
        ({"body": {"w": {"x": 1}}, "head": 1}, r" names \['body'\]\['w'\]\['x'\], which the"),
        ({"body": {"w": 1, "b": 1}, "head": 1}, r" names \['body'\]\['b'\], which the"),
        (OrderedDict(body=1, head=1), r" has other containers .* \(OrderedDict and dict\): give"),
    ],
)
def test_what_is_not_a_prefix_names_the_paths(params, given, said):
    for name, descend in (
        ("adapts", partial(gradient_descent, optimizer=sgd(0.1), adapts=given)),
        ("learning_rate", partial(gradient_descent, optimizer=sgd(given))),
    ):
        with pytest.raises(ValueError, match=f"^{name}.*{said}") as error:
            descend(loss, params, num_steps=1)
        assert "\n" not in str(error.value)


def test_a_long_value_that_is_not_a_prefix_is_cut(params):
    with pytest.raises(ValueError, match=r"names .*'w10'\],.* and 95 more, which") as error:
        select({"body": {f"w{i}": True for i in range(100)}, "head": True}, params)
    assert len(str(error.value)) < 400


SHAPES = {  # a tree of every rank, with a scalar, a leaf of one element and axes of one
    "conv": {"kernel": np.ones((3, 3, 1, 4)), "bn": {"scale": np.ones(4), "bias": np.zeros(4)}},
    "dense": {"kernel": np.ones((1, 5)), "bias": np.zeros(1)},
    "scale": np.ones(()),
}
DIVIDE_BY_A_NORM = {
    "clip_by_global_norm": (1e9,),
    "clip_by_block_rms": (1e9,),
    "adaptive_grad_clip": (1e9,),
    "normalize_by_update_norm": (),
}


def chained(module, name, *args):
    return optax.chain(getattr(module, name)(*args), optax.sgd(0.1))


@pytest.mark.parametrize("name", DIVIDE_BY_A_NORM)
@pytest.mark.parametrize(
    "tree, dtype",
    [(SHAPES, "float32"), (PARAMS, "bfloat16"), ({"w": np.ones(())}, "float32")],
    ids=["all ranks", "two leaves", "a scalar"],
)
def test_norms_without_a_derivative_at_zero_are_refused_and_ours_taken(name, tree, dtype):
    tree = jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)
    args = DIVIDE_BY_A_NORM[name]
    with pytest.raises(ValueError, match=rf"cml_jax\.clipping\..*{name}.* in place of optax's"):
        check_differentiable(chained(optax, name, *args), tree)
    check_differentiable(chained(clipping, name, *args), tree)
    check_differentiable(chained(clipping, name, *args), tree, first_order=True)


@pytest.mark.parametrize(
    "optimizer, where, first_order_too",
    [
        (chained(optax, "clip_by_global_norm", 1e9), "all gradients are 0", False),
        (chained(optax, "clip_by_block_rms", 1.0), "the gradients of a leaf are 0", False),
        (chained(optax, "adaptive_grad_clip", 1.0), "the parameters of a leaf are 0", True),
        (optax.lars(0.1), "the gradients of a leaf are 0", True),
        (optax.lamb(0.1, eps_root=1e-8), "the gradients of a leaf are 0", True),
        (optax.novograd(0.1), "the gradients of a leaf are 0", False),
        (chained(optax.contrib, "normalize"), "all gradients are 0", False),
        (optax.contrib.adopt(0.1), "one gradient is 0", False),  # divides from the second step on
        (optax.MultiSteps(chained(optax, "clip_by_global_norm", 1.0), 2), "all gradients", False),
        (
            optax.masked(optax.clip_by_global_norm(1.0), dict.fromkeys(SHAPES, True)),
            "all gradients are 0",
            False,
        ),
    ],
    ids="global block adaptive lars lamb novograd normalize adopt multi masked".split(),
)
def test_the_refusal_says_where_and_what_helps(optimizer, where, first_order_too):
    # optax's own promotions, in those that are not at hand in float64, are not the subject.
    with jax.numpy_dtype_promotion("standard"):
        with pytest.raises(ValueError, match=f"not finite where {where}.*eps=1e-8 in opt") as error:
            check_differentiable(optimizer, SHAPES)
        assert str(error.value).endswith(", or first_order=True") != first_order_too
        assert "\n" not in str(error.value)
        if first_order_too:
            with pytest.raises(ValueError, match="optimizer: the derivative"):
                check_differentiable(optimizer, SHAPES, first_order=True)
        else:
            check_differentiable(optimizer, SHAPES, first_order=True)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lars(0.1, eps=1e-8),
        optax.chain(
            optax.scale_by_adam(eps_root=1e-8), optax.scale_by_trust_ratio(eps=1e-8), sgd(0.1)
        ),
        optax.fromage(0.1),
        optax.stateless(lambda g, _: jax.tree.map(jnp.multiply, SHAPES, g)),
    ],
    ids=["lars", "lamb by hand", "fromage", "rates of the parameters' shapes"],
)
@pytest.mark.parametrize("first_order", [False, True])
def test_norms_with_an_eps_are_taken(optimizer, first_order):
    check_differentiable(optimizer, SHAPES, first_order=first_order)


@pytest.mark.parametrize("name", DIVIDE_BY_A_NORM)
@pytest.mark.parametrize("limit, dtype", [(1e-3, "float32"), (0.7, "bfloat16"), (1e9, "float32")])
def test_our_norms_have_the_bits_of_optax(name, limit, dtype):
    rng = np.random.default_rng(0)
    tree, params = (
        jax.tree.map(lambda x: jnp.asarray(rng.normal(size=np.shape(x)), dtype), SHAPES)
        for _ in range(2)
    )
    tree["dense"] = jax.tree.map(jnp.zeros_like, tree["dense"])
    params["scale"] = jnp.zeros((), dtype)

    def updates(module):
        optimizer = getattr(module, name)(limit)
        return optimizer.update(tree, optimizer.init(params), params)[0]

    assert_same(updates(clipping), updates(optax))


def test_nan_gradients_stay_nan():
    bad = {"w": jnp.array([jnp.nan, 1.0]), "b": jnp.ones(1)}
    for name, args in DIVIDE_BY_A_NORM.items():
        optimizer = getattr(clipping, name)(*args)
        updates, _ = optimizer.update(bad, optimizer.init(bad), bad)
        assert jnp.isnan(updates["w"]).any(), name


def dead_support(params):
    """A task whose support gradient is exactly zero, as where all units are dead."""
    return sum(jnp.sum(jax.nn.relu(leaf - 10.0)) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["clip_by_global_norm", "clip_by_block_rms", "adaptive_grad_clip"])
@pytest.mark.parametrize("support", [dead_support, loss], ids=["zero gradient", "a gradient"])
@pytest.mark.parametrize("first_order", [False, True])
def test_a_clip_that_never_clips_is_plain_sgd(params, name, support, first_order):
    def meta_gradient(optimizer):
        def after(params):
            adapted = gradient_descent(support, params, optimizer, 3, first_order=first_order)
            return loss(adapted)

        return jax.jit(jax.grad(after))(params)

    expected = meta_gradient(optax.sgd(0.1))
    assert_same(meta_gradient(chained(clipping, name, 1e9)), expected)
    assert optax.tree.norm(expected) > 0.1


@pytest.mark.parametrize("name", DIVIDE_BY_A_NORM)
@pytest.mark.parametrize("limit", [0.05, 0.5])
def test_where_norms_do_clip_the_derivative_is_exact(params, name, limit):
    optimizer = chained(clipping, name, limit)

    def after(params):
        return loss(gradient_descent(loss, params, optimizer, 3))

    assert_close(jax.jit(jax.grad(after))(params), finite_difference(after, params), 1e-6)


@pytest.mark.parametrize("name", DIVIDE_BY_A_NORM)
@pytest.mark.parametrize("adapts", [False, {"body": False, "head": False}])
def test_nothing_to_adapt_is_no_error(params, name, adapts):
    optimizer = chained(optax, name, *DIVIDE_BY_A_NORM[name])
    check_differentiable(optimizer, select(adapts, params))
    adapted = gradient_descent(loss, params, optimizer, 2, adapts=adapts)
    assert_same(adapted, params)
    check_differentiable(optimizer, {})


@pytest.mark.slow
@pytest.mark.parametrize("method", [maml, fomaml])
def test_clipping_by_the_parameters_on_conv4_whose_biases_start_at_zero(method):
    """Nothing is degenerate here: what is zero is the bias of each batch norm."""
    model = conv4(3, filters=2, pool=False)
    task = jax.jit(partial(glyphs, ways=3, shots=1, queries=1, size=8))(jax.random.key(1))
    params = {"base": model.init(jax.random.key(0), task.support.inputs)}

    def gradient(params, module, ratio):
        optimizer = chained(module, "adaptive_grad_clip", ratio)
        one = method(model, cross_entropy, num_steps=1, optimizer=optimizer)
        return meta_gradient(one, params, task)

    with pytest.raises(ValueError, match="where the parameters of a leaf are 0.*cml_jax.clipping"):
        jax.eval_shape(partial(gradient, module=optax, ratio=1e-2), params)
    ours = jax.jit(partial(gradient, module=clipping))
    loose, tight = ours(params, ratio=1e9), ours(params, ratio=1e-2)
    one = method(model, cross_entropy, num_steps=1, learning_rate=0.1)
    plain = jax.jit(lambda params: meta_gradient(one, params, task))(params)
    assert_close(loose, plain, 1e-5)
    assert np.isfinite(optax.tree.norm(tight))
    assert np.abs(optax.tree.norm(tight) - optax.tree.norm(plain)) > 1e-3


@pytest.mark.parametrize("name", ["adaptive_grad_clip", "lamb"])
def test_reptile_under_cml_is_finite_with_any_inner_optimiser(name):
    """The order is the first and the update's parameters are constants: nothing to refuse."""
    optimizer = optax.lamb(0.1) if name == "lamb" else chained(optax, name, 1e-2)
    method = cml(
        reptile(MODEL, squared_error, optimizer=optimizer, num_steps=2),
        CO_LEARNER,
        squared_error,
        scale=0.5,
    )
    task = first(sinusoids(1))
    params = method.init(jax.random.key(0), task.support.inputs)
    params["base"]["body"] = jax.tree.map(jnp.zeros_like, params["base"]["body"])
    assert np.isfinite(optax.tree.norm(meta_gradient(method, params, task)))


@pytest.mark.parametrize("adapts", [False, {"body": False, "head": False}])
def test_maml_that_adapts_nothing_trains_the_plain_network(adapts):
    task = first(sinusoids(1))
    optimizer = chained(optax, "clip_by_global_norm", 1e9)
    method = maml(MODEL, squared_error, num_steps=2, optimizer=optimizer, adapts=adapts)
    params = method.init(jax.random.key(0), task.support.inputs)
    none = maml(MODEL, squared_error, num_steps=0, learning_rate=0.1)
    assert_same(meta_gradient(method, params, task), meta_gradient(none, params, task))
