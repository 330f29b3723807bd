"""Replicas: one program for several seeds and several values of a setting, side by side."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Replicas(NamedTuple):
    """What tells the replicas of a run apart, in the order of their axis.

    Attributes:
      values: Of each replica, its "seed" and the setting that is swept.
      swept: The name of that setting, or "none".
    """

    values: Sequence[Mapping[str, float]]
    swept: str

    def names(self) -> list[str]:
        """The replicas' numbers, which follow a metric's name in reports; none for a single one."""
        return [str(i) for i in range(len(self.values))] if len(self.values) > 1 else []

    def seed(self) -> int:
        """The seed of the first replica."""
        return int(self.values[0]["seed"])

    def groups(self) -> dict[str, list[int]]:
        """Replicas that differ in the seed alone: their label to their numbers."""
        grouped: dict[str, list[int]] = {}
        for i, replica in enumerate(self.values):
            label = "" if self.swept == "none" else f"{self.swept} {replica[self.swept]:g}"
            grouped.setdefault(label, []).append(i)
        return grouped

    def have_axis(self) -> bool:
        """Whether arrays of a run have a leading axis of replicas."""
        return len(self.values) > 1 or self.swept != "none"


def replicas(settings: Mapping[str, Any]) -> Replicas:
    """The replicas of a run: for each of `sweep_values` the seeds `seed, seed + 1, ...`.

    Args:
      settings: Values by dotted names.
    """
    seeds = range(settings["seed"], settings["seed"] + settings["num_seeds"])
    name = settings["sweep"]
    values = [{}] if name == "none" else [{name: value} for value in settings["sweep_values"]]
    each = [{"seed": seed} | value for value, seed in itertools.product(values, seeds)]
    return Replicas(each, name)


def side_by_side(
    replicas: Replicas, function: Callable[..., Any], in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """`(*arguments) -> function(swept, *arguments)`, for all replicas at once.

    Args:
      replicas: What differs between them is traced.
      function: Pure; `swept` is the dict of what differs.
      in_axes: 0 for each argument that has a leading axis of replicas, None for what they share.

    Returns:
      The function under vmap, with a leading axis of replicas on all that it returns. With a
      single replica and no sweep there is no such axis, in arguments or results, and no vmap.
    """
    if not replicas.have_axis():
        return lambda *arguments: function(replicas.values[0], *arguments)
    names = replicas.values[0]
    stacked = {name: jnp.array([each[name] for each in replicas.values]) for name in names}
    return lambda *arguments: jax.vmap(function, (0, *in_axes))(stacked, *arguments)
