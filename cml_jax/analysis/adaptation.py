"""How the metric changes with the number of inner steps."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cml_jax.evaluation import evaluate
from cml_jax.types import Method, Metric, Params, Task


def adaptation_curve(
    method_of: Callable[[int], Method],
    params: Params,
    tasks: Task,
    metric: Metric,
    num_steps: Sequence[int],
    *,
    chunk: int | None = None,
) -> jax.Array:
    """The metric on the query set after each of several numbers of inner steps.

        metric(predict(adapt_k(params, support), query)),   k in num_steps

    Args:
      method_of: From a number of inner steps to the method, such as
        `lambda k: maml(model, loss, learning_rate=0.01, num_steps=k)`. Learned rates and
        normalisation of a step's own are thereby read as the method reads them.
      params: `state.params`.
      tasks: A batch of tasks, leaves `[T, n, ...]`.
      metric: `(outputs, targets) -> scalar`.
      num_steps: The numbers of inner steps; 0 is before adaptation.
      chunk: The number of tasks that run at a time, as in `evaluate`.

    Returns:
      `[len(num_steps), T]`. All queries are predicted at once.

    Raises:
      TypeError, AssertionError, ValueError: As `evaluate` raises them.

    >>> import jax, cml_jax
    >>> from cml_jax.models import mlp
    >>> from cml_jax.tasks import sinusoid
    >>> def maml(num_steps):
    ...     return cml_jax.maml(
    ...         mlp(), cml_jax.squared_error, learning_rate=0.01, num_steps=num_steps)
    >>> params = maml(1).init(jax.random.key(0), jax.numpy.zeros((5, 1)))
    >>> draw = jax.vmap(lambda key: sinusoid(key, shots=5, queries=10))
    >>> tasks = draw(jax.random.split(jax.random.key(1), 3))
    >>> adaptation_curve(maml, params, tasks, cml_jax.squared_error, (0, 1, 5)).shape
    (3, 3)
    """
    return jnp.stack(
        [evaluate(method_of(k), params, tasks, metric, chunk=chunk) for k in num_steps]
    )
