"""The best validation of every run, and the parameters that made it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.types import Params


class Best(NamedTuple):
    """The parameters to test.

    Attributes:
      params: those with the best validation; several runs are a leading axis. NaN before the first
        validation, and for a run that was never finite at one: its test is not a number either.
      about: {"value", "step"} of that validation, a number each or a list over runs.
    """

    params: Params
    about: dict[str, Any]

    def after(self, params: Params, value: np.ndarray, step: int, larger_is_better: bool) -> "Best":
        """The best after one more validation: `self` when no run is better; ties keep the first.

        Args:
          params: of the validation.
          value: of the metric, `[]` or `[runs]`; NaN is never better.
          step: meta-steps made.
          larger_is_better: of the metric.
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
        """The same parameters with another validation of them; NaN is worse than all.

        Args:
          value: of the metric, `[]` or `[runs]`; a run that has no best keeps none.
          larger_is_better: of the metric.
        """
        worst = -np.inf if larger_is_better else np.inf
        known = np.isfinite(value) & (np.asarray(self.about["step"]) > 0)
        return self._replace(about=self.about | {"value": np.where(known, value, worst).tolist()})


def no_best(params: Params, runs: tuple[int, ...], larger_is_better: bool) -> Best:
    """Before the first validation.

    Args:
      params: only their shapes matter.
      runs: the shape of a value, `()` or `(runs,)`.
      larger_is_better: of the metric.
    """

    def unknown(leaf):
        return jnp.full_like(leaf, jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0)

    worst = np.full(runs, -np.inf if larger_is_better else np.inf)
    about = {"value": worst.tolist(), "step": np.zeros(runs, int).tolist()}
    return Best(jax.tree.map(unknown, params), about)


@jax.jit
def _choose(better, new, old):
    def leaf(new, old):
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)

    return jax.tree.map(leaf, new, old)
