"""What needs no weights is made of a task's inputs once, outside of the inner loop."""

from collections.abc import Callable

from cml_jax.types import Method, Noisy, PyTree


def with_prepared_inputs(method: Method, prepare: Callable[[PyTree], PyTree]) -> Method:
    """`method` on `prepare(inputs)`.

    For inputs that are cheap to store and costly to read, such as a node's id for its subgraph:
    tasks hold the ids, and the inner loop, which reads its inputs at every step, what `prepare`
    makes of them once.

    Args:
      method: any method.
      prepare: a pure function of inputs `[n, ...]` to inputs `[n, ...]`; of a `Noisy` it gets the
        inputs, and the keys stay.

    Returns:
      A `Method`, the same but for its inputs.
    """

    def make(inputs):
        if isinstance(inputs, Noisy):
            return inputs._replace(inputs=prepare(inputs.inputs))
        return prepare(inputs)

    def init(key, inputs):
        return method.init(key, make(inputs))

    def adapt(params, support):
        return method.adapt(params, support._replace(inputs=make(support.inputs)))

    def predict(adapted, inputs):
        return method.predict(adapted, make(inputs))

    def objective(params, adapted, query, prediction=None):
        query = query._replace(inputs=make(query.inputs))
        return method.objective(params, adapted, query, prediction)

    return Method(init, adapt, predict, objective)
