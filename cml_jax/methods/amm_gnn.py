"""AMM-GNN: scales the features of a graph for the task at hand."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cml_jax.graphs.graph import Graph
from cml_jax.graphs.sparse import dense_rows
from cml_jax.inner import gradient_descent, loss_on, sgd
from cml_jax.types import Adapted, Loss, Method, Model, Noisy, PyTree, Task


class Matched(NamedTuple):
    """The inputs of `amm_gnn`: nodes, and the attribute sets of their task.

    Attributes:
      inputs: What the network reads, ids int32 `[n]` or a `Noisy` of them.
      sets: Two sets of nodes, int32 `[n, 2, size]`, the same for all examples of a task.
    """

    inputs: PyTree
    sets: jax.Array


def attribute_sets(key: jax.Array, task: Task, size: int = 10) -> Task:
    """Turns a task of node ids into one of `Matched`, by drawing two sets of its own nodes.

    Each set is drawn without replacement from the support and the query together, the second
    independently of the first.

    Args:
      key: A PRNG key, not the one that the task was drawn with.
      task: A task whose inputs are ids int32 `[n]`, or a `Noisy` of them.
      size: The number of nodes in a set, 10 in the code.

    Returns:
      The same task with `Matched` inputs.

    Raises:
      ValueError: When the task has fewer nodes than a set.
    """
    ids = [b.inputs.inputs if isinstance(b.inputs, Noisy) else b.inputs for b in task]
    own = jnp.concatenate(ids)
    if size > len(own):
        raise ValueError(f"size={size} but the task has {len(own)} nodes: lower it or add queries")
    draw = jax.vmap(lambda key: jax.random.permutation(key, own)[:size])
    sets = draw(jax.random.split(key))

    def match(batch):
        each = jnp.broadcast_to(sets[None], (len(batch.targets), *sets.shape))
        return batch._replace(inputs=Matched(batch.inputs, each))

    return Task(*map(match, task))


def amm_gnn(
    model: Model,
    graph: Graph,
    loss: Loss,
    *,
    learning_rate: PyTree,
    num_steps: int,
    strength: float = 0.01,
    adapts: PyTree = True,
    first_order: jax.typing.ArrayLike = False,
    remat: bool = False,
) -> Method:
    """MAML on a GCN whose features each task scales, by maps that only the outer loop trains.

        alpha_i = X[set_i]' a + a0,   beta_i = X[set_i]' b + b0,   i = 1, 2,   in R^F
        features X diag(1 + strength * (alpha_1 + alpha_2) / 2), in both loops and at test
        objective L_query(theta') - strength * (cos(alpha_1, alpha_2) + cos(beta_1, beta_2))

    where set_1 and set_2 are the attribute sets of the task, from `attribute_sets`. This is the
    method as TLP-FSNC has it, where beta is in the loss alone. (In the paper alpha and beta scale
    and shift.) alpha does not change in the inner loop and is computed once a task. No features are
    scaled: X diag(s) W1 = X (diag(s) W1).

    It is transductive, at test too: the sets contain query nodes, so a prediction depends on the
    features of other queries (not on their labels).

    The meta-gradient reaches the maps through the query loss, at any order, and with second order
    through the inner loop too. `first_order` treats alpha as a constant of the inner loop, as in
    the code, which detaches the inner gradients.

    Args:
      model: A `gcn` on `graph`. Its `params["body"]["kernel_1"]`, W1 `[F, hidden]`, is scaled.
      graph: The graph whose features the nodes of the sets have.
      loss: A function `(outputs, targets) -> scalar`, used in both loops.
      learning_rate: The inner rate, a scalar or a prefix tree as in `maml`.
      num_steps: The number of inner steps, static.
      strength: The factor of the scaling and of the cosines, 0.01 in the code.
      adapts: The parts of the network that adapt, as in `maml`. The maps never do.
      first_order: True treats the inner gradients as constants of the outer loop.
      remat: True recomputes the inner steps in the backward pass, as in `maml`.

    Returns:
      A `Method` on `Matched` inputs. Its parameters have "maps" beside "base". `adapt` returns
      "alpha" and "beta" `[2, F]` in `extra`. It reports "matching", the sum of the two cosines.

    Raises:
      ValueError: In `init`, when the body of the model has no "kernel_1" with a row for each
        feature.

    Reference: Wang et al. 2020, https://doi.org/10.1145/3340531.3411923;
    https://github.com/Zhen-Tan-dmml/TLP-FSNC.
    """

    def predict(adapted, inputs):
        if "alpha" not in adapted.extra:  # before adapting: a co-learner's init reads the features
            return model.apply(adapted.params, inputs.inputs)
        body = adapted.params["body"]
        scale = 1 + strength * adapted.extra["alpha"].mean(0)
        body = body | {"kernel_1": scale[:, None] * body["kernel_1"]}
        return model.apply(adapted.params | {"body": body}, inputs.inputs)

    # alpha stands beside the base, not in a closure: first order stops its gradient too.
    scaled = model._replace(
        apply=lambda both, inputs: predict(Adapted(both["base"], {"alpha": both["alpha"]}), inputs)
    )

    def init(key, inputs):
        # fold_in, not split: the base starts as it would alone, so that runs can be paired.
        keys = jax.random.split(jax.random.fold_in(key, 2))
        maps = {
            name: _linear(k, inputs.sets.shape[-1]) for name, k in zip(_MAPS, keys, strict=True)
        }
        base = model.init(key, inputs.inputs)
        _check_first_layer(base, graph.features.shape[1])
        return {"base": base, "maps": maps}

    def adapt(params, support):
        sets = support.inputs.sets[0]
        features = dense_rows(graph.features, sets.ravel()).reshape(*sets.shape, -1)
        vectors = {
            name: jnp.einsum("isf,s->if", features, m["kernel"]) + m["bias"]
            for name, m in params["maps"].items()
        }
        both = gradient_descent(
            loss_on(scaled, loss, support),
            {"base": params["base"], "alpha": vectors["alpha"]},
            sgd({"base": learning_rate, "alpha": 0.0}),
            num_steps,
            adapts={"base": adapts, "alpha": False},
            first_order=first_order,
            remat=remat,
            first_step=0,
        )
        return Adapted(both["base"], vectors)

    def objective(params, adapted, query, prediction=None):
        del params
        outputs, _ = prediction or predict(adapted, query.inputs)
        query_loss = loss(outputs, query.targets)
        matching = sum(
            optax.cosine_similarity(*adapted.extra[name], epsilon=1e-6) for name in _MAPS
        )
        return query_loss - strength * matching, {"loss": query_loss, "matching": matching}

    return Method(init, adapt, predict, objective)


_MAPS = ("alpha", "beta")


def _check_first_layer(base, num_features):
    body = base["body"] if isinstance(base["body"], Mapping) else {}
    kernel = body.get("kernel_1")
    if kernel is None or kernel.shape[:1] != (num_features,):
        shapes = {name: jax.tree.map(jnp.shape, part) for name, part in body.items()}
        raise ValueError(
            f"amm_gnn scales params['body']['kernel_1'] with its {num_features} rows, one a "
            f"feature, but the body of this model has {shapes}: give it cml_jax.models.gcn"
        )


def _linear(key, size):
    """A linear map to a number, uniform in +-1/sqrt(outputs) = +-1 as in the code."""
    kernel_key, bias_key = jax.random.split(key)
    kernel = jax.random.uniform(kernel_key, (size,), jnp.float32, -1, 1)
    return {"kernel": kernel, "bias": jax.random.uniform(bias_key, (), jnp.float32, -1, 1)}
