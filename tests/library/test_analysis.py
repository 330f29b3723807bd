"""Analyses against cases that can be worked out by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cml_jax
from cml_jax import analysis
from cml_jax.models import BatchNorm, from_linen, mlp, mlp_co_learner
from cml_jax.tasks import sinusoid
from cml_jax.types import Adapted, Batch, Model, Task

RATE = 0.25


def product():
    """y = head * body * x: one weight each, so that all gradients are known."""

    def init(key, inputs):
        return {"body": {"w": jnp.ones((1, 1))}, "head": {"w": jnp.ones((1, 1))}}

    def apply(params, inputs):
        features = inputs @ params["body"]["w"]
        return features @ params["head"]["w"], features

    def layers(params, inputs):
        outputs, features = apply(params, inputs)
        return {"body": features, "head": outputs}

    return Model(init, apply, layers)


def second_head():
    return Model(lambda key, x: {"w": jnp.ones((1, 1))}, lambda p, x: (x @ p["w"], x))


def mean(outputs, targets):
    """A loss that is linear in the outputs: its gradient there is 1, times the targets' sign."""
    return jnp.mean(outputs * targets)


def tasks(signs):
    """Tasks of the one example x = 1, whose loss is sign * y."""
    signs = jnp.array(signs)[:, None, None]
    ones = jnp.ones_like(signs)
    return Task(Batch(ones, jnp.abs(signs)), Batch(ones, signs))


def params_of(body, head, phi):
    base = {"body": {"w": jnp.array([[body]])}, "head": {"w": jnp.array([[head]])}}
    return {"base": base, "co_learner": {"w": jnp.array([[phi]])}}


@pytest.mark.parametrize("phi", [2.0, -2.0])
def test_the_gradients_of_both_outer_losses(x64, phi):
    """psi' = psi - a theta, theta' = theta - a psi on the support loss psi theta. Then
    d(psi' theta')/d psi = theta' - a psi', and d(psi' phi)/d psi = phi."""
    psi, theta = 3.0, 5.0
    method = cml_jax.maml(product(), mean, learning_rate=RATE, num_steps=1)
    released = cml_jax.cml_dagger_released(method, second_head())
    params, batch = params_of(psi, theta, phi), tasks([1.0, -1.0])
    of_meta = cml_jax.task_gradients(analysis.with_query_loss(method, mean), params, batch)
    of_co = cml_jax.task_gradients(analysis.with_query_loss(released, mean), params, batch)
    new_psi, new_theta = psi - RATE * theta, theta - RATE * psi
    expected = new_theta - RATE * new_psi
    body = of_meta.gradients["base"]["body"]
    np.testing.assert_allclose(body["w"].ravel(), [expected, -expected], rtol=1e-12)
    np.testing.assert_allclose(of_meta.losses, [new_psi * new_theta, -new_psi * new_theta])
    other = of_co.gradients["base"]["body"]
    np.testing.assert_allclose(other["w"].ravel(), [phi, -phi], rtol=1e-12)
    # Second order: the co-learner's loss reaches the head through the adapted body.
    np.testing.assert_allclose(of_co.gradients["base"]["head"]["w"][0, 0, 0], -RATE * phi)

    cosines = analysis.layer_cosines({"body": body}, {"body": other})
    np.testing.assert_allclose(cosines["body"], np.sign(phi * expected) * np.ones(2), rtol=1e-12)
    np.testing.assert_array_equal(analysis.all_positive(cosines), [phi > 0, phi > 0])


def test_the_sum_of_agreeing_gradients_descends(x64):
    """What the theorem says, on gradients of which some agree in both layers and some do not."""
    rng = np.random.default_rng(0)
    g = {"a": {"w": rng.normal(size=(50, 3))}, "b": {"w": rng.normal(size=(50, 2))}}
    h = jax.tree.map(lambda leaf: leaf + 2 * rng.normal(size=leaf.shape), g)
    holds = np.asarray(analysis.all_positive(analysis.layer_cosines(g, h)))
    assert 5 < holds.sum() < 45
    inner = sum(np.sum(g[k]["w"] * (g[k]["w"] + 3 * h[k]["w"]), 1) for k in g)
    assert (inner[holds] > 0).all()


def test_cosines_by_layer_and_without_biases(x64):
    def tree(kernel, bias, scale):
        layer = {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}
        return {"body": {"Dense_0": layer, "Norm_0": {"scale": jnp.array(scale)}}}

    g = tree([[[3.0], [0.0]]], [[4.0]], [[1.0]])
    h = tree([[[3.0], [0.0]]], [[-4.0]], [[0.0]])
    cosines = analysis.layer_cosines(g, h)
    assert list(cosines) == ["body/Dense_0", "body/Norm_0"]
    np.testing.assert_allclose(cosines["body/Dense_0"], [(9 - 16) / 25], rtol=1e-12)
    assert np.isnan(cosines["body/Norm_0"]).all()
    np.testing.assert_array_equal(analysis.all_positive(cosines), [False])

    weights = analysis.layer_cosines(g, h, weights_only=True)
    assert list(weights) == ["body/Dense_0"]
    np.testing.assert_allclose(weights["body/Dense_0"], [1.0], rtol=1e-12)
    np.testing.assert_array_equal(analysis.all_positive(weights), [True])
    # A layer whose gradient is zero says nothing.
    zero = {"norm": cosines["body/Norm_0"], **weights}
    np.testing.assert_array_equal(analysis.all_positive(zero), [True])


def test_norms_by_layer(x64):
    tree = {"w": {"kernel": jnp.array([[[3.0]], [[1.0]]]), "bias": jnp.array([[4.0], [0.0]])}}
    np.testing.assert_allclose(analysis.layer_norms(tree)["w"], [5.0, 1.0])
    np.testing.assert_allclose(analysis.layer_norms(tree, weights_only=True)["w"], [3.0, 1.0])


def test_the_gradient_that_adaptation_leaves(x64):
    """At psi', theta' the loss psi' theta' has the gradient (theta', psi')."""
    method = cml_jax.maml(product(), mean, learning_rate=RATE, num_steps=1)
    task = jax.tree.map(lambda leaf: leaf[0], tasks([1.0]))
    adapted = method.adapt(params_of(3.0, 5.0, 1.0), task.support)
    found = analysis.gradient_after_adaptation(method, mean, adapted, task.query)
    np.testing.assert_allclose(found["body"]["w"], [[5.0 - RATE * 3.0]], rtol=1e-12)
    np.testing.assert_allclose(found["head"]["w"], [[3.0 - RATE * 5.0]], rtol=1e-12)


def test_the_adaptation_curve_is_the_path_of_the_inner_loop(x64):
    """ANIL on psi = 1: theta_k = theta - k a, so the loss after k steps is theta - k a."""

    def anil(num_steps):
        return cml_jax.anil(product(), mean, learning_rate=RATE, num_steps=num_steps)

    params = params_of(1.0, 2.0, 0.0)
    curve = analysis.adaptation_curve(anil, params, tasks([1.0, -1.0]), mean, (0, 1, 3))
    expected = 2.0 - RATE * np.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(curve, np.stack([expected, -expected], 1), rtol=1e-12)


def test_cka_does_not_see_rotation_scale_and_shift(x64):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 3, 2))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    turned = 7 * x.reshape(20, 6) @ rotation + 5
    np.testing.assert_allclose(analysis.linear_cka(jnp.array(x), jnp.array(turned)), 1, rtol=1e-12)
    stretched = x.reshape(20, 6) * np.array([10.0, 1, 1, 1, 1, 1])
    assert analysis.linear_cka(jnp.array(x), jnp.array(stretched)) < 0.9


def test_cka_against_the_form_with_features(x64):
    """|Y^T X|^2 / (|X^T X| |Y^T Y|), Kornblith's eq. 5 of centred features."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(15, 4)), rng.normal(size=(15, 7))
    a, b = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    expected = norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b))
    np.testing.assert_allclose(analysis.linear_cka(jnp.array(x), jnp.array(y)), expected)


def test_cka_of_orthogonal_features_is_zero_and_of_none_nan(x64):
    corners = jnp.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]])
    found = analysis.layer_similarities(
        {"a": corners[:, :1], "b": corners[:, :1], "same": corners[:, 2:]},
        {"a": corners[:, 1:2], "b": corners[:, :2], "same": corners[:, 2:]},
    )
    np.testing.assert_allclose(found["a"], 0, atol=1e-12)
    np.testing.assert_allclose(found["b"], 1 / np.sqrt(2), rtol=1e-12)
    assert np.isnan(found["same"])


def test_layers_through_the_method(x64):
    """The head of the adapted network, and a body that ANIL leaves as it was."""
    model = analysis.with_layers(product())
    method = cml_jax.anil(model, mean, learning_rate=RATE, num_steps=1)
    task = jax.tree.map(lambda leaf: leaf[0], tasks([1.0]))
    params = params_of(1.0, 2.0, 0.0)
    outputs, observed = method.predict(method.adapt(params, task.support), task.query.inputs)
    np.testing.assert_allclose(outputs, [[2.0 - RATE]])
    np.testing.assert_allclose(observed.layers["head"], outputs)
    np.testing.assert_allclose(observed.layers["body"], observed.features)
    with pytest.raises(ValueError, match="model.layers is None"):
        analysis.with_layers(product()._replace(layers=None))


def test_layers_of_maml_plus_plus_are_read_with_the_normalisation_of_the_last_step():
    body = nn.Sequential([nn.Dense(3), BatchNorm()])
    model = analysis.with_layers(from_linen(body, nn.Dense(2)))
    method = cml_jax.maml_plus_plus(model, cml_jax.cross_entropy, learning_rate=0.1, num_steps=2)
    inputs = jax.random.normal(jax.random.key(0), (4, 2))
    params = method.init(jax.random.key(1), inputs)
    params["step_norm"] = jax.tree.map(lambda leaf: leaf + 0.5, params["step_norm"])
    adapted = method.adapt(params, Batch(inputs, jnp.array([0, 1, 0, 1])))
    outputs, observed = method.predict(adapted, inputs)
    np.testing.assert_allclose(observed.layers["head"], outputs, rtol=1e-5)
    unlike, _ = model.apply(adapted.params, inputs)
    assert np.abs(unlike - outputs).max() > 1e-3


def test_two_tasks_at_a_right_angle(x64):
    """d = (3, 0), (0, 1): agreement weighs them 9 : 1, and the step is (2.7, 0.1)."""
    displacements = {"body": jnp.array([[3.0], [0.0]]), "head": {"w": jnp.array([[0.0], [1.0]])}}
    np.testing.assert_allclose(analysis.task_norms(displacements), [3.0, 1.0])
    np.testing.assert_allclose(analysis.task_cosines(displacements), np.eye(2), atol=1e-12)
    weights = cml_jax.gradient_agreement(displacements)
    np.testing.assert_allclose(weights, [0.9, 0.1])
    length, cosine = analysis.weighted_step(displacements, weights)
    step, mean = np.array([2.7, 0.1]), np.array([1.5, 0.5])
    norm = np.linalg.norm
    np.testing.assert_allclose(length, norm(step) / norm(mean), rtol=1e-12)
    np.testing.assert_allclose(cosine, step @ mean / (norm(step) * norm(mean)), rtol=1e-12)


def test_uniform_weights_change_nothing_and_tasks_that_do_not_move_have_no_cosine(x64):
    displacements = {"w": jnp.array([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]]), "fixed": None}
    length, cosine = analysis.weighted_step(displacements, cml_jax.uniform(displacements))
    np.testing.assert_allclose([length, cosine], 1, rtol=1e-12)
    cosines = np.asarray(analysis.task_cosines(displacements))
    assert np.isnan(cosines[1]).all() and np.isnan(cosines[:, 1]).all()
    np.testing.assert_allclose(cosines[0, 2], 1 / np.sqrt(5 * 10), rtol=1e-12)


def test_principal_components_of_points_on_turned_axes(x64):
    """Points at +-2 and +-1 along two orthogonal directions, shifted."""
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))
    points = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]]) @ rotation[:2] + 9
    coordinates, shares = analysis.principal_components(jnp.array(points))
    expected = [[2, 0], [2, 0], [0, 1], [0, 1]]
    np.testing.assert_allclose(np.abs(coordinates), expected, atol=1e-12)
    np.testing.assert_allclose(shares, [0.8, 0.2], rtol=1e-12)
    np.testing.assert_allclose(coordinates[0], -coordinates[1], atol=1e-12)
    with pytest.raises(ValueError, match="num_components=5 but there are 4 examples of 5"):
        analysis.principal_components(jnp.array(points), 5)


def test_the_share_of_the_variance_between_classes(x64):
    targets = jnp.array([0, 1, 0, 1])
    apart = jnp.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    np.testing.assert_allclose(analysis.between_class_share(apart, targets, 3), 1.0)
    mixed = jnp.array([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    np.testing.assert_allclose(analysis.between_class_share(mixed, targets, 2), 0.0, atol=1e-12)


def test_all_of_it_compiles_under_vmap_on_a_real_method():
    """Shapes in float32, on tasks of the sinusoid, with a co-learner beside."""
    loss = cml_jax.squared_error
    method = cml_jax.maml(
        analysis.with_layers(mlp(hidden=(8, 8))), loss, learning_rate=0.02, num_steps=2
    )
    co_learner = mlp_co_learner(width=8)
    reads = co_learner._replace(
        init=lambda key, features: co_learner.init(key, features.features),
        apply=lambda params, features: co_learner.apply(params, features.features),
    )
    both = cml_jax.cml(method, reads, loss, scale=0.2)
    params = both.init(jax.random.key(0), jnp.zeros((5, 1)))
    draw = jax.vmap(lambda key: sinusoid(key, shots=5, queries=10))

    @jax.jit
    def analyse(params, tasks):
        released = cml_jax.cml_dagger_released(method, reads)
        bodies = [
            cml_jax.task_gradients(analysis.with_query_loss(m, loss), params, tasks).gradients[
                "base"
            ]["body"]
            for m in (method, released)
        ]

        def of_one(task):
            adapted = method.adapt(params, task.support)
            layers = [
                method.predict(each, task.query.inputs)[1].layers
                for each in (Adapted(params["base"]), adapted)
            ]
            left = analysis.gradient_after_adaptation(method, loss, adapted, task.query)
            return analysis.layer_similarities(*layers), left

        similar, left = jax.vmap(of_one)(tasks)
        return analysis.layer_cosines(*bodies), similar, analysis.layer_norms(left)

    cosines, similar, norms = analyse(params, draw(jax.random.split(jax.random.key(1), 3)))
    assert {len(v) for each in (cosines, similar, norms) for v in each.values()} == {3}
    assert set(similar) == {"body/Linear_0", "body/Linear_1", "body", "head"}
    assert all(((0 < v) & (v < 1 + 1e-5)).all() for v in similar.values())
    assert all((v > 0).all() for v in norms.values())
