"""The recipes of CONTRIBUTING.md: applied to a copy of the project, which then trains with them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.runs import ROOT

BLOCK = re.compile(r"```\w+\n(?:#|//) (\S+?\.\w+)(?: in (\w+))?\n(.*?)```", re.DOTALL)
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def apply(folder, page):
    """Applies each block of a page: a new file, an entry of a dict, or lines at a file's end."""
    touched = []
    for name, rows, body in BLOCK.findall(page):
        path = Path(folder, name)
        touched.append(name)
        if rows:
            text, count = re.subn(
                rf"^({rows}\b.*\{{\n)", rf"\1{body}", path.read_text(), flags=re.M
            )
            assert count == 1, (name, rows)
            path.write_text(text)
        elif path.exists():
            path.write_text(f"{path.read_text()}\n\n{body}")
        else:
            path.write_text(body)
    return touched


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for name in ("cml_jax", "experiments", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    apply(folder, PAGE)
    return folder


def files_of(heading):
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {name for name, _, _ in BLOCK.findall(section)}


def test_a_recipe_touches_few_files():
    assert len(files_of("A method")) == 4
    assert len(files_of("A network")) == 3
    assert len(files_of("An image data set")) == 4
    losses = {"cml_jax/losses.py", "cml_jax/weighting.py", "cml_jax/__init__.py"}
    assert files_of("A loss, a metric, a task weighting") == losses | {
        "experiments/choices/outer.py"
    }


def run(folder, *command, environment=None):
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | (environment or {}),
    )


def test_the_program_trains_with_what_was_added(copy):
    settings = {
        "method": "two_sided_maml",
        "share": "0.25",
        "model.name": "tiny",
        "model.width": "8",
        "co_learner": "linear",
        "loss": "brier",
        "metric": "brier",
        "weighting": "positive_agreement",
        "floor": "0.2",
        "train_steps": "4",
        "eval.every": "2",
        "eval.num_tasks": "8",
        "eval.num_steps": "1,",
        "eval.validation_tasks": "8",
        "tasks_per_step": "4",
        "plan.compilation_cache": "False",
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    main = ["-m", "experiments.main", "--config=configs/glyphs.py:3way-2shot", "--workdir=run"]
    done = run(copy, *main, *flags)
    assert done.returncode == 0, done.stderr
    assert re.search(r"test of step \d: brier 0\.\d+", done.stdout)
    assert "validation brier" in done.stderr


def test_the_program_trains_on_a_new_data_set(copy):
    rng = np.random.default_rng(0)
    names = ("red", "blue", "grey", "pink", "green", "black")
    classes = {
        name: rng.integers(256, size=(4 + i, 8, 8, 3), dtype=np.uint8)
        for i, name in enumerate(names)
    }
    np.savez(copy / "stripes.npz", **classes)
    flags = ["--config=configs/stripes.py", "--workdir=stripes", "--config.data.dir=."]
    flags += ["--config.model.name=tiny", "--config.train_steps=2", "--config.eval.every=2"]
    flags += ["--config.eval.num_tasks=8", "--config.eval.validation_tasks=8"]
    flags += ["--config.tasks_per_step=4", "--config.eval.num_steps=1,"]
    cache = {"CML_JAX_CACHE": str(copy / "cache")}
    done = run(copy, "-m", "experiments.main", *flags, environment=cache)
    assert done.returncode == 0, done.stderr
    assert "test of step 2: " in done.stdout and (copy / "cache/stripes-8-v1/images.json").is_file()
    np.savez(copy / "stripes.npz", red=classes["red"])
    again = [flag.replace("workdir=stripes", "workdir=again") for flag in flags]
    done = run(copy, "-m", "experiments.main", *again, environment=cache)
    assert done.returncode == 2 and "has no images of class blue: replace it" in done.stderr


def test_what_was_added_is_checked_and_in_the_help(copy):
    told = run(copy, "-m", "experiments.main", "--help").stdout
    assert "Read by method=two_sided_maml:" in told and "--config.floor=0.1" in told
    glyphs = ["-m", "experiments.main", "--config=configs/glyphs.py", "--workdir=other"]
    for flag, line in (
        ("--config.share=0.5", "share is a setting of method=two_sided_maml; method=maml reads"),
        ("--config.model.width=3", "model.width is a setting of model.name=tiny"),
        ("--config.floor=0.5", "floor is a setting of weighting=positive_agreement"),
        ("--config.loss=briar", "needs one of auto, brier, cross_entropy"),
    ):
        done = run(copy, *glyphs, flag)
        assert done.returncode == 2 and line in done.stderr, done.stderr


def test_the_battery_takes_the_method(copy):
    battery = ["-m", "pytest", "-n0", "tests/library/test_methods.py", "-k", "two_sided_maml"]
    done = run(copy, *battery)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 2
