"""The execution plan: it is chosen, checked, printed, and changes no number."""

import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import trained

from experiments.machine import devices, memory
from experiments.settings.config import default_config

_PROGRAM = """
import os, sys
from experiments.machine import allocator
print("started", flush=True)
allocator.restart_with_huge_pages(sys.argv[1] == "true")
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], os.getpid())
"""


def restart(tmp_path, malloc, tunables=None):
    """The lines that a program prints which calls `restart_with_huge_pages`, and its pid."""
    path = tmp_path / "program.py"
    path.write_text(_PROGRAM)
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": tunables} if tunables else {}
    environment["PYTHONPATH"] = os.getcwd()
    process = subprocess.Popen(
        [sys.executable, str(path), malloc, "a b"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    assert lines[-1].endswith(f" ['{malloc}', 'a b'] {process.pid}")
    return len(lines) - 1, lines[-1].split()[0]


glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc",
    reason="THE ALLOCATOR IS NOT TESTED: it is set on glibc alone",
)


@glibc
def test_the_program_restarts_once_with_the_allocator_set(tmp_path):
    starts, tunables = restart(tmp_path, "true")
    assert starts == 2
    assert "glibc.malloc.hugetlb=1" in tunables.split(":")


@glibc
def test_other_tunables_are_kept_and_those_of_the_allocator_respected(tmp_path):
    starts, tunables = restart(tmp_path, "true", "glibc.rtld.nns=5")
    assert starts == 2
    assert tunables.startswith("glibc.rtld.nns=5:glibc.malloc.hugetlb=1:")
    assert restart(tmp_path, "true", "glibc.malloc.arena_max=8") == (1, "glibc.malloc.arena_max=8")


@glibc
def test_plan_malloc_false_leaves_the_allocator_alone(tmp_path):
    assert restart(tmp_path, "false") == (1, "None")


def configured(**changes):
    config = default_config()
    for name, value in changes.items():
        section = config.plan if name in config.plan else config
        section[name] = value
    return config


def test_convolutions_take_one_task_a_device_and_perceptrons_one_device():
    plan = devices.make_plan(32)
    assert (plan.devices, plan.chunk, plan.steps_per_dispatch) == (4, 4, 10)
    assert str(plan) == "4 x cpu, 4 tasks at a time, 10 meta-steps a dispatch, remat off"
    assert devices.make_plan(6).devices == 3
    plan = devices.make_plan(25, small=True)
    assert (plan.devices, plan.chunk, plan.steps_per_dispatch) == (1, None, 200)


def test_every_choice_can_be_made_by_hand():
    plan = devices.make_plan(32, devices=2, chunk=8, steps_per_dispatch=3, remat=True)
    plan = plan._replace(memory=1_500_000_000)
    assert str(plan) == "2 x cpu, 8 tasks at a time, 3 meta-steps a dispatch, remat on, 1.50 GB"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"devices": 8}, r"plan.devices=8 but there are 4"),
        ({"devices": 3}, r"tasks_per_step=32 does not divide by 3 devices"),
        ({"chunk": 5}, r"plan.chunk=5 must divide tasks_per_step=32"),
        ({"chunk": 2}, r"a multiple of the 4 devices"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        devices.make_plan(32, **changes)


def sizes(needed):
    """A compiled program that needs so many bytes on each device."""
    stats = SimpleNamespace(
        argument_size_in_bytes=needed,
        output_size_in_bytes=7,
        alias_size_in_bytes=7,
        temp_size_in_bytes=0,
    )
    return SimpleNamespace(memory_analysis=lambda: stats)


def test_what_does_not_fit_is_computed_again_and_then_refused(monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: 5_000_000_000)
    needs = {False: 1_000_000_000, True: 500_000_000}

    def fit(remat):
        plan = devices.make_plan(32)
        return memory.fitting(plan, lambda plan: sizes(needs[plan.remat]), remat == "auto")[0]

    plan = fit("auto")
    assert (plan.remat, plan.memory) == (False, 4_000_000_000)
    needs[False] = 1_500_000_000
    plan = fit("auto")
    assert (plan.remat, plan.memory) == (True, 2_000_000_000)
    with pytest.raises(ValueError, match=r"does not fit in 5.00 GB .*remat off, 6.00 GB\): lower"):
        fit("off")
    needs[True] = 1_400_000_000
    with pytest.raises(ValueError, match=r"does not fit in 5.00 GB .*remat on, 5.60 GB\): lower"):
        fit("auto")


def test_the_compilers_count_is_that_of_a_known_program():
    def program(x):
        y = jnp.sin(x)
        return jnp.sort(y) + y[::-1]

    leaf = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
    compiled = jax.jit(program).lower(leaf).compile()
    megabytes = memory.memory_needed(compiled, 1) / 1e6
    assert 8 <= megabytes <= 8 + 3 * 4  # argument and result, and at most three arrays between
    assert memory.memory_needed(compiled, 4) == 4 * memory.memory_needed(compiled, 1)


def test_the_machine_has_memory():
    assert 1e8 < memory.memory_limit() < 1e15


def run(tmp_path, name, **changes):
    """A short training under a plan: its metrics, step by step, without the clocks."""
    config = configured(**{"tasks_per_step": 8, "train_steps": 6, "num_steps": 2} | changes)
    config.data.name, config.model.name = "sinusoid", "mlp"
    config.data.shots, config.data.queries, config.inner_learning_rate = 5, 5, 0.05
    config.eval.every, config.eval.validation_tasks = config.train_steps, 8
    workdir = tmp_path / name
    workdir.mkdir()
    assert trained(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    return {k: v for k, v in last.items() if "seconds" not in k and "second" not in k}


@pytest.mark.slow
def test_every_plan_gives_the_same_numbers(tmp_path):
    plans = {
        "devices": {"devices": 4},
        "chunk": {"devices": 2, "chunk": 4},
        "remat": {"remat": "on"},
        "default": {"steps_per_dispatch": 6},
    }
    rows = {
        name: run(tmp_path, name, **({"steps_per_dispatch": 6} | plan))
        for name, plan in plans.items()
    }
    expected = rows["default"]
    assert expected["step"] == 6 and "validation/mse" in expected
    for name, row in rows.items():
        assert row.keys() == expected.keys()
        for key, value in row.items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-5, err_msg=f"{name} {key}")
    # The last line alone covers steps 5 and 6 here: only what describes the state is the same.
    row = run(tmp_path, "dispatches", steps_per_dispatch=4)
    np.testing.assert_allclose(row["validation/mse"], expected["validation/mse"], rtol=1e-5)


# tests/library/test_step.py has every method, one step at a time; here is what the program adds
# to one: the perturbed second gradient, moments that are carried on, what changes over training.
@pytest.mark.slow
@pytest.mark.parametrize("method", ["sharp_maml", "reptile", "maml_plus_plus"])
def test_four_devices_train_as_one_does(tmp_path, method):
    changes = {"method": method, "co_learner": "mlp", "weighting": "gradient_agreement"}
    changes |= {"inner_optimizer": "adam"} if method == "reptile" else {}
    changes |= {"train_steps": 2, "steps_per_dispatch": 2}
    one, four = (run(tmp_path, str(n), devices=n, **changes) for n in (1, 4))
    assert one.keys() == four.keys() and "validation/mse" in one
    for key, value in one.items():
        np.testing.assert_allclose(four[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
