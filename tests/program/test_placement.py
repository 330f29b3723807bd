"""The data of a run on its devices: one copy on CPU, the same tasks on every layout."""

import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.battery import assert_same

from cml_jax.tasks import ImagePool, episodes, task_keys
from cml_jax.tasks.members import consecutive_members
from experiments.machine.devices import make_plan
from experiments.machine.placement import place, shared_bytes

COUNTS = [5, 9, 6, 7]


def pointers(array):
    return [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]


def mapped(path, offset):
    """Images in a file of which the first is at `offset`, and their mapping."""
    images = np.random.default_rng(0).integers(0, 256, (27, 5, 5, 1), np.uint8)
    path.write_bytes(bytes(offset) + images.tobytes())
    return images, np.memmap(path, np.uint8, "r", offset=offset, shape=images.shape)


@pytest.fixture
def plan():
    return make_plan(4, devices=4)


@pytest.mark.parametrize("offset", [64, 128])
def test_all_devices_read_one_mapped_file_in_place(tmp_path, plan, offset):
    images, file = mapped(tmp_path / "images", offset)
    placed = place(ImagePool(file, consecutive_members(COUNTS)), plan)
    assert placed.pixels.sharding == plan.replicated
    assert pointers(placed.pixels) == [file.ctypes.data] * 4
    np.testing.assert_array_equal(placed.pixels, images)
    assert shared_bytes(placed, plan) == 27 * 25 + placed.members.ids.nbytes + 16


@pytest.mark.parametrize("piece", [1, 100, 1 << 24])
def test_what_jax_cannot_read_in_place_is_copied_once(tmp_path, plan, monkeypatch, piece):
    monkeypatch.setattr("experiments.machine.placement._PIECE", piece)
    images, file = mapped(tmp_path / "images", 27)
    for given in (file, images[1:].copy()[:, ::-1], np.asarray(file)[3:]):
        placed = place(given, plan)
        assert len(set(pointers(placed))) == 1 and pointers(placed)[0] != given.ctypes.data
        np.testing.assert_array_equal(placed, given)


def test_any_leaf_is_placed(plan):
    key, device_array = jax.random.key(1), jnp.arange(6.0)
    data = {"key": key, "number": 3.0, "on a device": device_array, "empty": np.zeros((0, 3))}
    placed = place(data, plan)
    assert placed["key"] == key and placed["number"] == 3.0 and placed["empty"].shape == (0, 3)
    assert len(set(pointers(placed["on a device"]))) == 1
    np.testing.assert_array_equal(placed["on a device"], device_array)
    assert place(None, plan) is None


def tasks_on(devices, data):
    """Tasks of three steps in a loop, as training draws them."""
    plan = make_plan(4, devices=devices)
    draw = partial(episodes, ways=3, shots=1, queries=3, rotations=True)

    def run(data, steps):
        def drawn(i):
            keys = task_keys(jax.random.key(0), "train", 4 * i, 4)
            keys = jax.lax.with_sharding_constraint(keys, plan.tasks)
            return jax.vmap(draw, (0, None))(keys, data)

        def step(i, tasks):
            return jax.tree.map(lambda seen, new: seen.at[i].set(new), tasks, drawn(i))

        shapes = jax.eval_shape(drawn, 0)
        zeros = jax.tree.map(lambda x: jnp.zeros((3, *x.shape), x.dtype), shapes)
        return jax.lax.fori_loop(0, steps, step, zeros)

    tasks = jax.jit(run, out_shardings=plan.replicated)(place(data, plan), 3)
    return jax.tree.map(np.asarray, tasks)


def test_tasks_are_the_same_on_every_layout(tmp_path):
    images, file = mapped(tmp_path / "images", 64)
    members = consecutive_members(COUNTS)
    expected = tasks_on(1, ImagePool(images, members))
    for devices in (1, 2, 4):
        assert_same(tasks_on(devices, ImagePool(file, members)), expected)


@pytest.mark.slow
def test_a_large_set_is_in_memory_once(tmp_path):
    """Two devices train on 0.4 GB; then every image has been read."""
    command = [sys.executable, "-m", "benchmarks.memory", "--gigabytes=0.4", "--steps=4"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    times = [float(number) for number in re.findall(r"([+-][\d.]+) times it", done.stdout)]
    assert len(times) == 2 and max(times) < 1.3, done.stdout + done.stderr


_PROCESS = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
index, port, path, seed = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
from experiments.machine import processes
from experiments.machine.devices import make_plan
from experiments.machine.placement import place
from experiments.machine.processes import ProcessesError
plan = make_plan(4, devices=4)
images = np.load(path, mmap_mode="r")
try:
    placed = place({"a": images, "b": np.arange(3) + seed * index}, plan)
    own = {shard.data.unsafe_buffer_pointer() for shard in placed["a"].addressable_shards}
    total = jax.jit(lambda x: x.astype(np.int32).sum(), out_shardings=plan.replicated)(placed["a"])
    print(own == {images.ctypes.data}, len(placed["a"].sharding.device_set), int(total))
except ProcessesError as error:
    print(error)
processes.any_process(True)
jax.distributed.shutdown()
"""


@pytest.mark.reliability
@pytest.mark.parametrize("seed", [0, 1])
def test_two_processes_read_the_same_file_in_place(tmp_path, seed):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), np.uint8)
    np.save(tmp_path / "a.npy", images)
    command = [sys.executable, "-c", _PROCESS]
    given = (str(port), str(tmp_path / "a.npy"), str(seed))
    root = Path(__file__).parents[2]
    both = [
        subprocess.Popen([*command, str(index), *given], cwd=root, stdout=-1, stderr=-1, text=True)
        for index in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    line = f"True 4 {images.sum()}" if seed == 0 else "the processes have read different data"
    assert [line in out for out, _ in said] == [True, True], said
