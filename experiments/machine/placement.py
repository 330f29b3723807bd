"""Where the data of a run lie on its devices."""

import mmap
from typing import Any

import jax
import numpy as np

from experiments.machine import processes
from experiments.machine.devices import Plan

_ALIGNMENT = 64  # jax reads NumPy's memory in place where its address is a multiple of this
_PIECE = 1 << 24


def place(data: Any, plan: Plan) -> Any:
    """Puts the data of a split where every device of a run can draw tasks from them.

    CPU devices of a process share its memory, so they all read one copy, in place: the pages of a
    file that is mapped, or the caller's NumPy array. A mapped image is in memory once it has been
    drawn, and the system may take its page back. Only an array whose address does not suit jax is
    copied, once. On a GPU or TPU every device has a copy, for each has a memory of its own.

    The arrays are not cut up over the devices: then the devices would exchange images in every
    step, and on CPU nothing would be saved.

    Args:
      data: The arrays of a split, any pytree; None where tasks are made from keys alone. On CPU a
        caller must not change them afterwards.
      plan: The devices.

    Returns:
      The same arrays on all devices of the plan, whole and alike.

    Raises:
      ProcessesError: The processes of the run have different data.
    """
    if plan.replicated.mesh.devices.flat[0].platform == "cpu":
        data = jax.tree.map(_readable_in_place, data)
    return processes.replicate(data, plan.replicated)


def shared_bytes(data: Any, plan: Plan) -> int:
    """The size of placed data that the CPU devices of a process share; 0 on other devices.

    A compiler counts them for every device: see `experiments.machine.memory.memory_needed`.
    """
    if plan.gather or plan.replicated.mesh.devices.flat[0].platform != "cpu":
        return 0
    return sum(leaf.nbytes for leaf in jax.tree.leaves(data))


def _readable_in_place(leaf: Any) -> Any:
    keys = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
    if keys or not isinstance(leaf, np.ndarray | jax.Array):
        return leaf
    array = np.asarray(leaf)
    if array.flags.c_contiguous and array.ctypes.data % _ALIGNMENT == 0:
        return array
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    mapping = _mapping(array)
    if mapping is None:
        copy[...] = array
        return copy
    rows = max(_PIECE * len(array) // max(array.nbytes, 1), 1)
    for i in range(0, len(array), rows):
        copy[i : i + rows] = array[i : i + rows]
        # Else the pages of the file are in memory beside the copy.
        mapping.madvise(mmap.MADV_DONTNEED)
    return copy


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    """The mapped file that an array lies in, where its pages can be given back."""
    base = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None
