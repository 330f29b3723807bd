"""The data that tasks are drawn from: on the devices, or gathered on the host ahead of them."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from cml_jax.tasks import Gathered, ImagePool, Members, task_keys
from experiments.machine import processes
from experiments.machine.devices import Plan
from experiments.machine.placement import place

# Of images, as stored; of an accelerator's memory: a larger pool stays on the host.
_ON_DEVICE = 0.4
_BLOCK = 1 << 28  # bytes of images that are gathered at a time; there are two blocks


class Feed:
    """What the compiled programs read of a split.

    On the devices: the split, whole. On the host: the images of the next tasks, which a thread
    gathers and copies to the devices while these compute the tasks before.
    """

    def __init__(
        self, data: Any, plan: Plan, draw: Callable[..., Any] | None, split: str, seed: int
    ):
        """Places the split, or makes ready to gather from it.

        Args:
          data: The arrays of the split.
          plan: The layout; `plan.gather` says where the images are.
          draw: As in `Problem`.
          split: Name of the split.
          seed: Seed of the run.
        """
        self.split, self._plan = split, plan
        self._pool = data if plan.gather else None
        self._whole = None if plan.gather else place(data, plan)
        if self._pool is None:
            return
        keys = jax.random.key(seed)
        members = Members(*(np.asarray(array) for array in data.members))

        def drawn(members, start, count):
            own = task_keys(keys, split, start, count)
            each = jax.vmap(lambda key: draw(key, members, split))(own)  # pyright: ignore
            return each.ids, each.copies

        self._drawn = jax.jit(drawn, static_argnums=2)
        ids, _ = jax.eval_shape(partial(drawn, count=1), members, 0)
        self._task_bytes = ids.size * data.pixels[:1].nbytes
        self._members = members
        self._thread = ThreadPoolExecutor(1)
        self._next: tuple[tuple[int, int, int], Future] | None = None

    def rows(self, count: int, most: int) -> int:
        """How many batches of so many tasks to ask for at a time: what is gathered takes memory."""
        if self._pool is None:
            return most
        return max(1, min(most, _BLOCK // (count * self._task_bytes)))

    def tasks(self, start: int, rows: int, count: int, used: int | None = None) -> Any:
        """The data for tasks start, ..., start + rows * count - 1.

        Where they are gathered, a thread begins on those that follow.

        Args:
          start: The number of the first task.
          rows: How many times the program draws a batch.
          count: How many tasks a batch has.
          used: How many of the rows are used, where it is not all: the next call starts after them.

        Returns:
          The whole split, or `Gathered` with leading axes `[rows, count]`.
        """
        if self._pool is None:
            return self._whole
        wanted = start, rows, count
        block = None
        if self._next is not None:
            about, future = self._next
            block = future.result()  # also where it is not what is wanted: one at a time
            if about != wanted:
                block = None
        if block is None:
            block = self._gather(*wanted)
        follows = start + (rows if used is None else used) * count, rows, count
        if follows == wanted:
            future = Future()
            future.set_result(block)
        else:
            future = self._thread.submit(self._gather, *follows)
        self._next = follows, future
        return block

    def close(self) -> None:
        """Ends the thread."""
        if self._pool is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _gather(self, start: int, rows: int, count: int) -> Gathered:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            drawn = self._drawn(self._members, start, rows * count)
        ids, copies = (np.asarray(x).reshape(rows, count, *x.shape[1:]) for x in drawn)
        spec = jax.sharding.PartitionSpec(None, "task")
        sharding = jax.sharding.NamedSharding(self._plan.tasks.mesh, spec)  # pyright: ignore
        put = partial(jax.make_array_from_callback, sharding=sharding)
        image = self._pool.pixels.shape[1:]  # pyright: ignore
        return Gathered(
            # A process gathers what its own devices compute with.
            put(ids.shape + image, data_callback=lambda i: self._pool.pixels[ids[i[: ids.ndim]]]),
            put(copies.shape, data_callback=lambda i: copies[i]),
        )


def gather_on_host(choice: str, data: Any, draw: Any, replicas: int) -> bool:
    """Whether images are gathered on the host.

    Args:
      choice: "device", "host", or "auto": on the host where a split would take more than 40% of an
        accelerator's memory. On CPU, where the devices read a mapped file in place, it never does.
      data: The splits.
      draw: As in `Problem`; None cannot be gathered.
      replicas: How many runs are side by side; several have different tasks, and do not gather.

    Raises:
      ValueError: "host" for data that cannot be gathered, or for several replicas.
    """
    from experiments.machine.memory import memory_limit

    pools = [pool for pool in data.values() if isinstance(pool, ImagePool)]
    if draw is None or not pools or replicas > 1:
        if choice == "host":
            why = "there are several replicas" if replicas > 1 else "the data are not images"
            raise ValueError(f"plan.images=host but {why}: leave it out")
        return False
    if choice != "auto" or jax.default_backend() == "cpu":
        return choice == "host"
    largest = max(pool.pixels.nbytes for pool in pools)
    return 0 < _ON_DEVICE * processes.smallest(memory_limit()) < largest
