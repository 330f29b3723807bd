"""The best validation of every replica, and the parameters that reached it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.types import Params


class Best(NamedTuple):
    """The parameters to test.

    Attributes:
      params: The parameters with the best validation; several replicas are a leading axis. They
        are NaN before the first validation, and for a replica that was never finite at one: its
        test is not a number either.
      about: The "value" and the "step" of that validation, each a number or a list over replicas.
    """

    params: Params
    about: dict[str, Any]

    def after(self, params: Params, value: np.ndarray, step: int, larger_is_better: bool) -> "Best":
        """The best after one more validation.

        Args:
          params: The parameters that were validated.
          value: Their metric, `[]` or `[replicas]`; NaN is never better.
          step: How many meta-steps have been made.
          larger_is_better: Whether a larger value of the metric is better.

        Returns:
          `self` where no replica is better; of equal values the first stays.
        """
        before = np.asarray(self.about["value"], np.float64)
        better = value > before if larger_is_better else value < before
        if not better.any():
            return self
        about = {
            "value": np.where(better, value, before).tolist(),
            "step": np.where(better, step, self.about["step"]).tolist(),
        }
        return Best(_choose(better, params, self.params), about)

    def scored(self, value: np.ndarray, larger_is_better: bool) -> "Best":
        """The same parameters, validated again.

        Args:
          value: Their metric now, `[]` or `[replicas]`; NaN is worse than every number, and a
            replica that has no best yet keeps none.
          larger_is_better: Whether a larger value of the metric is better.
        """
        worst = -np.inf if larger_is_better else np.inf
        known = np.isfinite(value) & (np.asarray(self.about["step"]) > 0)
        return self._replace(about=self.about | {"value": np.where(known, value, worst).tolist()})


def no_best(params: Params, replicas: tuple[int, ...], larger_is_better: bool) -> Best:
    """The best before the first validation.

    Args:
      params: Parameters, of which only shapes and dtypes matter.
      replicas: The shape of a value, `()` or `(replicas,)`.
      larger_is_better: Whether a larger value of the metric is better.
    """

    def unknown(leaf):
        return jnp.full_like(leaf, jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0)

    worst = np.full(replicas, -np.inf if larger_is_better else np.inf)
    about = {"value": worst.tolist(), "step": np.zeros(replicas, int).tolist()}
    return Best(jax.tree.map(unknown, params), about)


@jax.jit
def _choose(better, new, old):
    def leaf(new, old):
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)

    return jax.tree.map(leaf, new, old)
