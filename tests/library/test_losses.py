"""The losses against numpy, and what they say of wrong arguments."""

import jax.numpy as jnp
import numpy as np
import pytest

from cml_jax import accuracy, cross_entropy, squared_error

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
