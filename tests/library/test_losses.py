"""The losses against numpy, and what they say of wrong arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cml_jax
from cml_jax import Batch, Task, accuracy, cross_entropy, maml, squared_error
from cml_jax.models import linear_co_learner

LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.25, 3.0], [1.0, 1.5, 0.0], [-2.0, 4.0, 4.5]])
TARGETS = np.array([0, 1, 1, 2])


def test_cross_entropy_is_the_mean_negative_log_probability(x64):
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    expected = -np.log(probabilities[np.arange(4), TARGETS]).mean()
    actual = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS))
    np.testing.assert_allclose(actual, expected, rtol=1e-14)


def test_cross_entropy_of_huge_logits_is_finite():
    value = cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]))
    np.testing.assert_allclose(value, 2e4)


def test_squared_error_is_the_mean_over_all_elements():
    outputs, targets = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[0.0, 2.0], [5.0, 1.0]])
    assert squared_error(outputs, targets) == (1 + 0 + 4 + 9) / 4


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.int64])
def test_accuracy_counts_the_largest_logit(x64, dtype):
    value = accuracy(jnp.asarray(LOGITS), jnp.asarray(TARGETS, dtype))
    assert value == 0.75 and value.dtype == jnp.float32


@pytest.mark.parametrize("function", [cross_entropy, accuracy])
@pytest.mark.parametrize(
    "outputs, targets, message",
    [
        (jnp.zeros((4, 3)), jnp.zeros(4), "targets must be integer"),
        (jnp.zeros((4, 3)), jnp.zeros(5, jnp.int32), r"targets must be \[n\]"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 1), jnp.int32), r"targets must be \[n\]"),
        (jnp.zeros(4), jnp.zeros(4, jnp.int32), r"outputs must be logits \[n, ways\]"),
        (jnp.zeros((4, 3), jnp.int32), jnp.zeros(4, jnp.int32), "outputs must be floating"),
    ],
)
def test_wrong_classes_are_named(function, outputs, targets, message):
    with pytest.raises(AssertionError, match=message):
        function(outputs, targets)


@pytest.mark.parametrize("targets", [jnp.zeros(4), jnp.zeros((4, 2)), jnp.zeros((4, 1), jnp.int32)])
def test_wrong_regression_targets_are_named(targets):
    with pytest.raises(AssertionError, match="targets of squared_error"):
        squared_error(jnp.zeros((4, 1)), targets)


WRONG_CLASSES = {
    "from one": ([1, 2, 3, 1], "int32", "1 to 3"),
    "ids of the whole set": ([700, 12, 431, 12], "int32", "12 to 700"),
    "negative": ([0, -1, 2, 1], "int32", "-1 to 2"),
    "one too many": ([0, 1, 2, 3], "uint8", "0 to 3"),
    "the largest byte": ([0, 255, 2, 2], "uint8", "0 to 255"),
    "wraps in int32": ([0, 2**32, 2, 2], "int64", "0 to 4294967296"),
    "least of its kind": ([0, -128, 2, 2], "int8", "-128 to 2"),
}


@pytest.mark.parametrize("function", [cross_entropy, accuracy])
@pytest.mark.parametrize("targets, dtype, seen", WRONG_CLASSES.values(), ids=WRONG_CLASSES)
@pytest.mark.parametrize("make", [np.array, jnp.array], ids=["numpy", "jax"])
def test_known_targets_that_are_no_classes_are_named(x64, function, targets, dtype, seen, make):
    said = f"targets range from {seen} but outputs have 3 classes, 0 to 2: number .*np.unique"
    logits, targets = jnp.asarray(LOGITS), make(targets, dtype)
    with pytest.raises(ValueError, match=said) as error:
        function(logits, targets)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=said):  # at trace time, where they are closed over
        jax.jit(lambda logits: function(logits, targets))(logits)


@pytest.mark.parametrize("targets, dtype, seen", WRONG_CLASSES.values(), ids=WRONG_CLASSES)
def test_traced_targets_that_are_no_classes_are_nan_in_loss_and_gradient(x64, targets, dtype, seen):
    logits, targets = jnp.asarray(LOGITS), jnp.array(targets, dtype)
    loss, gradient = jax.jit(jax.value_and_grad(cross_entropy))(logits, targets)
    wrong = np.asarray((targets < 0) | (targets.astype(int) > 2))
    assert np.isnan(loss) and np.isnan(gradient[wrong]).any(1).all()

    # An inner step is NaN, and so is all that is derived from it.
    def after_a_step(logits, targets):
        return jnp.sum(logits - jax.grad(cross_entropy)(logits, targets)[:, :1])

    assert np.isnan(jax.jit(after_a_step)(logits, targets))
    assert np.isnan(jax.jit(accuracy)(logits, targets))
    batched = jax.vmap(accuracy)(logits[None], targets[None])  # not compiled, traced all the same
    assert np.isnan(batched).all()


@pytest.mark.parametrize("part", ["support", "query"])
def test_training_on_wrong_labels_cannot_go_unseen(part):
    """One wrong label of one task: the loss and all parameters are NaN after one step."""
    model = cml_jax.Model(
        lambda key, x: {"body": {}, "head": linear_co_learner(3).init(key, x)},
        lambda params, x: linear_co_learner(3).apply(params["head"], x),
    )
    batch = Batch(jnp.ones((2, 4, 5)), jnp.array([[0, 1, 2, 0], [0, 1, 2, 0]]))
    wrong = batch._replace(targets=batch.targets.at[1, 3].set(3))
    tasks = Task(batch, batch)
    method = maml(model, cross_entropy, num_steps=2, learning_rate=0.1)
    state = cml_jax.init(method, optax.sgd(0.1), jax.random.key(0), batch.inputs[0])

    @jax.jit
    def step(state, tasks):
        return cml_jax.meta_step(method, optax.sgd(0.1), state, tasks)

    for given, finite in ((tasks, True), (tasks._replace(**{part: wrong}), False)):
        after, metrics = step(state, given)
        assert np.isfinite(metrics["loss"]) == finite
        for leaf in jax.tree.leaves(after.params):
            assert np.isfinite(leaf).all() == finite, "all or none"


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_more_classes_than_a_small_dtype_can_count(dtype):
    logits = jnp.zeros((2, 300)).at[0, 5].set(3.0).at[1, 100].set(3.0)
    targets = jnp.array([5, 99], dtype)
    assert jax.jit(accuracy)(logits, targets) == accuracy(logits, targets) == 0.5
    assert np.isfinite(jax.jit(cross_entropy)(logits, targets))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("shape", [(25, 5), (7, 20)])
def test_cross_entropy_has_the_bits_of_optax(x64, dtype, shape):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(3 * rng.normal(size=shape), dtype)
    targets = jnp.asarray(rng.integers(shape[1], size=shape[0]))

    def reference(logits, targets):
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    ours, theirs = (
        jax.jit(jax.value_and_grad(f))(logits, targets) for f in (cross_entropy, reference)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_cross_entropy_of_infinite_logits():
    logits = jnp.array([[0.0, -jnp.inf]])
    assert cross_entropy(logits, jnp.array([0])) == 0.0
    assert cross_entropy(logits, jnp.array([1])) == jnp.inf
    assert jnp.isnan(cross_entropy(jnp.array([[0.0, jnp.nan]]), jnp.array([0])))
