"""What is printed: on any encoding, and one line where jax has no device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEAK = """
import sys
from experiments.machine.printing import spell_what_cannot_be_printed
spell_what_cannot_be_printed()
print("98.53% ± 0.21% caf\\xe9 \\U0001f600 \\udcff")
print("±", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("ascii", rb"98.53% +- 0.21% caf\xe9 \U0001f600 \udcff"),
        ("latin-1", b"98.53% \xb1 0.21% caf\xe9 \\U0001f600 \\udcff"),
        ("utf-8", "98.53% ± 0.21% café 😀 \\udcff".encode()),
    ],
)
def test_every_text_can_be_printed(encoding, said):
    done = run([sys.executable, "-c", SPEAK], PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout == said + b"\n"
    assert done.stderr in (b"+-\n", "±\n".encode(encoding, "replace"))


@pytest.mark.parametrize("platform", ["cuda", "gpu", "tpu", "nonsense"])
@pytest.mark.parametrize("module", ["main", "linear_probing"])
def test_a_device_that_is_not_there_is_one_line(tmp_path, platform, module):
    own = ["--config=configs/glyphs.py", "--config.plan.malloc=False"]
    settings = own if module == "main" else ["--config=configs/nodes.py"]
    command = [sys.executable, "-m", f"experiments.{module}", *settings]
    command += [f"--workdir={tmp_path / 'run'}"]
    done = run(command, JAX_PLATFORMS=platform)
    if done.returncode == 0 and platform != "nonsense":
        pytest.skip(f"NO DEVICE IS ABSENT: this machine has {platform}")
    assert done.returncode == 2
    told = done.stderr.decode().splitlines()
    assert told[-1].startswith(f"error: JAX_PLATFORMS={platform}: there is no such device here")
    assert len(told) == 1 and told[0].endswith("set JAX_PLATFORMS=cpu, or leave it unset")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_finished_run_on_ascii_ends_well(tmp_path):
    command = [sys.executable, "-m", "experiments.main", "--config=configs/sinusoid.py"]
    settings = ("train_steps=2", "eval.every=2", "eval.num_tasks=4", "eval.validation_tasks=4")
    settings += ("eval.num_steps=1,", "plan.compilation_cache=False", "plan.malloc=False")
    command += [f"--workdir={tmp_path}", *(f"--config.{setting}" for setting in settings)]
    done = run(command, PYTHONIOENCODING="ascii", MPLBACKEND="Agg")
    assert done.returncode == 0, done.stderr
    assert b"test of step 2: mse " in done.stdout and b" +- " in done.stdout


def run(command, **environment):
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, timeout=300
    )
