"""Tasks with inputs and targets that are not finite."""

import jax
import jax.numpy as jnp

from cml_jax.tasks import task_keys


def poisoned(problem, split, *indices, seed=0):
    """The problem with inputs and targets that are NaN in some tasks of a split."""
    keys = [task_keys(jax.random.key(seed), split, i, 1)[0] for i in indices]
    bad = jax.random.key_data(jnp.stack(keys))

    def wrap(sample):
        def poisoned_sample(key, data):
            is_bad = (jax.random.key_data(key)[None] == bad).all(-1).any()
            factor = jnp.where(is_bad, jnp.nan, 1.0)
            return jax.tree.map(lambda leaf: leaf * factor, sample(key, data))

        return poisoned_sample

    return problem._replace(
        train_sample=wrap(problem.train_sample), test_sample=wrap(problem.test_sample)
    )
