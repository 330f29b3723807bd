"""Strict tests: silent promotions and warnings are errors; four simulated devices; no cache."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"
# The tests compile much and compute little: the same programs, their machine code not polished, and
# by XLA's older code generator, which takes half the time, where it can still be chosen.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)

import jax
import optax
import pytest

pytest.register_assert_rewrite("support")

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

LEFT_OUT = "not reliability and not slow"  # as in addopts

_bias_correction = optax.tree.bias_correction


def _promoting_bias_correction(*args, **kwargs):
    with jax.numpy_dtype_promotion("standard"):
        return _bias_correction(*args, **kwargs)


# optax's Adam raises a Python float to an int32 count: the one promotion here that is not ours.
optax.tree.bias_correction = _promoting_bias_correction


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    if "s" not in config.option.reportchars:
        config.option.reportchars += "s"  # A skipped test says so, and why, whatever the options.


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config):
    """A plain run leaves tests out (`addopts` in pyproject.toml): its last lines say so."""
    yield
    if config.option.markexpr == LEFT_OUT:
        line = "LEFT OUT: the tests marked reliability or slow; python -m pytest -m '' runs all"
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs are kept for ever: a worker that runs many files would take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints of the steps 1, 2 and 3 in last/, and 2 in best/."""
    from support.checkpoint_files import save_three_steps

    workdir = tmp_path_factory.mktemp("saved")
    save_three_steps(workdir)
    return workdir


@pytest.fixture
def x64():
    """Float64 inside the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def mesh():
    """Four devices along "task"; Auto axes, since vmapped convolutions fail on Explicit ones."""
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((4,), ("task",), axis_types=auto, devices=jax.devices("cpu"))


@pytest.fixture
def data_dir():
    """The folder of real data files."""
    folder = os.environ.get("CML_JAX_DATA")
    if not folder:
        pytest.skip("REAL DATA NOT TESTED: set CML_JAX_DATA to the folder of the data files")
    if not Path(folder).is_dir():
        pytest.fail(f"CML_JAX_DATA={folder} is no folder: correct it, or unset it to skip")
    return Path(folder)


@pytest.fixture
def apart(monkeypatch, tmp_path):
    """The user's data and cache are not seen, and nothing is downloaded."""
    from cml_jax.data import fetch

    monkeypatch.delenv("CML_JAX_DATA", raising=False)
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_unreachable", lambda url, seconds: "no network in the tests")
