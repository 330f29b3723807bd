"""G-Meta and AMM-GNN, with and without CML and gradient agreement, learn a small block graph.

Tasks are drawn from the same classes in training and after it, with labels in random order: the
bounds are out of reach of a network that does not adapt, and of one that was not trained.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.quick import quick

import cml_jax
from cml_jax import accuracy, cml, cross_entropy, fomaml, gradient_agreement, uniform
from cml_jax.graphs.block_graph import block_graph
from cml_jax.graphs.subgraphs import subgraphs, subgraphs_of
from cml_jax.methods.amm_gnn import amm_gnn, attribute_sets
from cml_jax.methods.prepared_inputs import with_prepared_inputs
from cml_jax.models import gcn, gmeta, node_co_learner
from cml_jax.tasks import nodes, task_keys
from cml_jax.tasks.members import members

GRAPH = block_graph(
    0,
    nodes=60,
    classes=4,
    within=0.9,
    words=40,
    topical_words=20,
    words_per_class=5,
    on_topic=0.4,
)
TABLE = subgraphs(GRAPH, nodes=8, neighbours=4)


def method_and_sample(name):
    base, *wrappers = name.split("+")
    made = jax.tree.map(jnp.asarray, GRAPH)
    inner = dict(learning_rate=0.1, num_steps=5, first_order=True)

    def sample(key, split):
        task = nodes(key, split, ways=2, shots=1, queries=5)
        return attribute_sets(jax.random.fold_in(key, 1), task) if base == "amm_gnn" else task

    if base == "amm_gnn":
        method = amm_gnn(gcn(made, 2, hidden=8), made, cross_entropy, **inner)
    else:
        prepare = partial(subgraphs_of, TABLE)
        method = with_prepared_inputs(fomaml(gmeta(2, hidden=8), cross_entropy, **inner), prepare)
    if "cml" in wrappers:
        method = cml(method, node_co_learner(2, width=8), cross_entropy, scale=0.2)
    return method, sample, gradient_agreement if "agreement" in wrappers else uniform


@pytest.mark.parametrize("base", quick(["gmeta", "amm_gnn"], "gmeta"))
@pytest.mark.parametrize(
    "wrappers", quick(["", "+cml", "+agreement", "+cml+agreement"], "+cml+agreement")
)
def test_learns_a_block_graph(base, wrappers):
    method, sample, weigh = method_and_sample(base + wrappers)
    split = members(GRAPH.labels, np.arange(4), 6)
    key, optimizer = jax.random.key(0), optax.adam(0.01)

    @jax.jit
    def run(key):
        state = cml_jax.init(method, optimizer, key, sample(key, split).support.inputs)
        draw = jax.vmap(partial(sample, split=split))
        tests = draw(task_keys(key, "test", 0, 50))
        score = partial(cml_jax.evaluate, method, tasks=tests, metric=accuracy)

        def step(state, _):
            keys = task_keys(key, "train", 4 * state.step, 4)
            tasks = jax.vmap(partial(sample, split=split))(keys)
            return cml_jax.meta_step(method, optimizer, state, tasks, weigh=weigh)

        after, reports = jax.lax.scan(step, state, length=120)
        return score(state.params).mean(), score(after.params).mean(), reports

    before, trained, reports = run(key)
    assert all(np.isfinite(report).all() for report in reports.values())
    assert before < 0.75 and trained > 0.9
