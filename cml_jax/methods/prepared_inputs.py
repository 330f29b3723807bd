"""Inputs that are computed once a task, outside of the inner loop."""

from collections.abc import Callable

from cml_jax.types import Method, Noisy, PyTree


def with_prepared_inputs(method: Method, prepare: Callable[[PyTree], PyTree]) -> Method:
    """`method` on `prepare(inputs)`, which is computed once a task.

    This is for inputs that are cheap to store and costly to read, such as the id of a node whose
    subgraph the network reads. Tasks hold the ids, and the inner loop, which reads its inputs at
    every step, holds what `prepare` made of them.

    Args:
      method: Any method.
      prepare: A pure function from inputs `[n, ...]` to inputs `[n, ...]`. Of a `Noisy` it is given
        the inputs, and the keys stay as they are.

    Returns:
      A `Method` that is the same except for its inputs.
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
