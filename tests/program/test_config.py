"""Configs: every mistake is one line that names the value and the fix, before jax is loaded."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.settings.checks import check
from experiments.settings.config import (
    KEYS,
    ConfigError,
    default_config,
    flat,
    parse_ways_shots,
)
from experiments.settings.record import default_workdir, record, rewrite

ROOT = Path(__file__).parents[2]
GLYPHS = "--config=configs/glyphs.py"


def run(*arguments):
    command = [sys.executable, "-m", "experiments.main", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def changed(**values):
    config = default_config()
    with config.ignore_type():
        config.update_from_flattened_dict(values)
    return config


def test_defaults_are_valid():
    check(default_config())


def test_defaults_are_locked_and_typed():
    config = default_config()
    with pytest.raises(AttributeError):
        config.lerning_rate = 1.0
    with pytest.raises(TypeError):
        config.seed = "abc"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_config_files_are_valid(path):
    scope = {}
    exec(compile(path.read_text(), path, "exec"), scope)
    check(scope["get_config"]())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"outer_learning_rate": float("nan")}, r"outer_learning_rate=nan: needs a number from"),
        ({"inner_learning_rate": float("inf")}, r"inner_learning_rate=inf: needs a number from"),
        ({"data.amplitude": (1, 10**400)}, r"each a number from 0.0 to 1000000.0"),
        ({"tasks_per_step": 0}, r"tasks_per_step=0: needs an integer from 1 to"),
        ({"seed": True}, r"seed=True: needs an integer"),
        ({"seed": 2**31}, r"seed=2147483648: needs an integer from 0 to 2147483647"),
        ({"first_order": 1}, r"first_order=1: needs true or false"),
        ({"method": "mamal"}, r"method='mamal': needs one of maml, fomaml"),
        ({"eval.num_steps": (1, 2.5)}, r"eval.num_steps=\(1, 2.5\): needs a tuple such as '1,3'"),
        ({"eval.num_steps": ()}, r"eval.num_steps=\(\): name at least one"),
        (
            {"data.phase": (3.0, 1.0), "data.name": "sinusoid", "model.name": "mlp"},
            r"data.phase=\(3.0, 1.0\): needs \(lowest, highest\)",
        ),
        ({"data.name": "sinusoid"}, r"use --config.model.name=mlp"),
        ({"model.name": "mlp"}, r"use --config.model.name=conv4"),
        ({"co_learner": "mlp"}, r"use --config.co_learner=linear"),
        ({"weighting": "gradient_agreement", "tasks_per_step": 1}, r"nothing to compare"),
        (
            {"weighting": "gradient_agreement", "weigh_on": "last_steps"},
            r"weigh_on=last_steps needs 2 or more inner steps and method=maml makes 1: use",
        ),
        (
            {"weighting": "gradient_agreement", "method": "proto_net"},
            r"weigh_on=displacements needs 1 or more inner steps and method=proto_net makes 0",
        ),
        ({"plan.devices": 3}, r"plan.devices=3 does not divide tasks_per_step=32"),
    ],
)
def test_a_wrong_value_is_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        check(changed(**values))
    assert "\n" not in str(error.value)


def test_an_integer_is_a_number():
    check(changed(**{"outer_learning_rate": 1, "data.phase": (-1, 2)}))


def test_a_config_from_elsewhere_is_checked():
    config = default_config().copy_and_resolve_references()
    with config.unlocked():
        del config["num_steps"]
        with pytest.raises(ConfigError, match="the config has no num_steps"):
            check(config)
        config.num_stepss = 3
        with pytest.raises(ConfigError, match="did you mean --config.num_steps"):
            check(config)
    with pytest.raises(ConfigError, match="returned NoneType"):
        check(None)


IMAGE_SETS = ["mini_imagenet", "cifar_fs", "fc100", "vgg_flower", "folder"]
# Of 20 ways; MAML's rate is for the sum over the classes.
RECIPES = {
    "cml": {"co_learner": "conv", "inner_learning_rate": 0.5, "model.filters": 64},
    "finn": {"co_learner": "none", "inner_learning_rate": 0.2, "model.filters": 32},
    "reptile": {"method": "reptile", "data.train_shots": 15, "weighting": "uniform"},
    "agreement": {"method": "reptile", "data.train_shots": 15, "weighting": "gradient_agreement"},
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", IMAGE_SETS)
def test_recipes_of_the_papers(name, recipe):
    config = importlib.import_module(f"configs.{name}").get_config(f"20way-5shot,recipe={recipe}")
    check(config)
    expected = RECIPES[recipe] | {"data.name": name, "data.ways": 20, "data.shots": 5}
    assert expected.items() <= flat(config).items()


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_what_a_recipe_leaves_out(name):
    module = importlib.import_module(f"configs.{name}")
    for text, ways, shots, steps in (
        (None, 5, 1, 30_000),
        ("5way-5shot", 5, 5, 30_000),
        ("recipe=finn", 5, 1, 60_000),
        ("5way-5shot,recipe=finn", 5, 5, 60_000),
    ):
        config = module.get_config(text)
        check(config)
        assert (config.data.ways, config.data.shots, config.train_steps) == (ways, shots, steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5way-5shot,recipe=fin", "recipes are cml, finn, reptile, agreement"),
        ("5way-5shot,finn", "write for instance 5way-1shot,recipe=finn; recipes are cml"),
        ("recipe=", "recipes are cml"),
        ("recipe=finn,5way-5shot", "recipes are cml"),
        ("5way-5shot,recipe=finn,recipe=cml", "recipes are cml"),
        ("finn", "'finn' after the colon of --config: write for instance 5way-1shot"),
        ("5way-5shoot,recipe=finn", "5way-1shot"),
    ],
)
def test_a_wrong_recipe(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        importlib.import_module("configs.cifar_fs").get_config(text)
    assert "\n" not in str(error.value)


def test_ways_and_shots():
    assert parse_ways_shots("20way-5shot", (5, 1)) == (20, 5)
    assert parse_ways_shots(None, (5, 1)) == (5, 1)
    for text in ("20way-5shoot", "5way", "0way-1shot", "5way-1shot ", "way-shot", "-5way-1shot"):
        with pytest.raises(ConfigError, match="5way-1shot"):
            parse_ways_shots(text, (5, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no --config: choose --config=configs/cifar_fs.py or"),
        (["--confg=a.py"], "no --config: did you mean --config=a.py by --confg=a.py?"),
        (["configs/glyphs.py"], "no --config: choose"),
        (["--config=configs/glyps.py"], "no config file configs/glyps.py: did you mean configs/gl"),
        ([GLYPHS + ":20way-5shoot"], "'20way-5shoot' after the colon"),
        (["--config=configs/sinusoid.py:5way-1shot"], "choose maml or agreement"),
        (["--config=configs/fc100.py:5way-5shot,recipe=fin"], "recipes are cml, finn, reptile"),
        ([GLYPHS, "--config.inner_lerning_rate=3"], "did you mean --config.inner_learning_rate"),
        ([GLYPHS, "--config.data.shot=3"], "did you mean --config.data.shots"),
        ([GLYPHS, "--config.data=3"], "--config.data is a group"),
        ([GLYPHS, "--config.seed=abc"], "--config.seed=abc: needs an integer"),
        ([GLYPHS, "--config.plan.malloc=maybe"], "--config.plan.malloc=maybe: needs true or false"),
        ([GLYPHS, "--config.outer_learning_rate=nan"], "outer_learning_rate=nan: needs a number"),
        ([GLYPHS, "--workdri=x"], "Unknown command line flag 'workdri'. Did you mean: workdir"),
        (["configs/glyphs.py", GLYPHS], "did you mean --config=configs/glyphs.py"),
        (
            [GLYPHS, "--workdir=gs://b/run"],
            "--workdir=gs://b/run is an address, not a folder: mount it",
        ),
        ([GLYPHS, "--workdir=/proc/no"], "cannot write /proc/no"),
        ([GLYPHS, "--evaluate", "--workdir=/proc/no"], "no run in /proc/no: train it first"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, message):
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("config.lerning_rate = 3", r":4: there is no setting --config.lerning_rate: did you mean"),
        ("config.seed = 'a'", r":4: TypeError: .*seed"),
        ("1 / 0", r":4: ZeroDivisionError: division by zero"),
        ("config = None", r"get_config\(\) returned NoneType"),
    ],
)
def test_a_mistake_in_a_config_file_is_told_with_its_line(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(
        "from experiments import default_config\n"
        f"def get_config():\n    config = default_config()\n    {body}\n    return config\n"
    )
    result = run(f"--config={path}")
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ") and re.search(message, last)
    assert "Traceback" not in result.stderr


def test_a_config_file_without_variants_says_so(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    return None\n")
    result = run(f"--config={path}:5way-1shot")
    assert result.returncode == 2
    assert "takes nothing after a colon" in result.stderr


def test_help_names_every_setting():
    result = run("--help")
    assert result.returncode == 0
    assert all(f"--config.{name}=" in result.stdout for name in KEYS)
    assert "configs/glyphs.py" in result.stdout
    groups = re.split(r"\n\n(?=[A-Z][A-Za-z -]+\n)", result.stdout)
    for title, name in {
        "Data set": "data.ways",
        "Network": "model.name",
        "Method": "num_steps",
        "Co-learner": "co_learner_scale",
        "Task weights": "agreement_cut",
        "Outer loop": "outer_optimizer",
        "Evaluation": "eval.num_steps",
        "Program": "sweep_values",
    }.items():
        (group,) = (text for text in groups if text.startswith(f"{title}\n"))
        assert f"--config.{name}=" in group
    assert "Read by every method but proto_net, linear_probing:" in result.stdout


def test_flags_are_parsed_before_jax_is_loaded():
    code = "import sys, experiments.main; assert not {'jax', 'orbax', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_folder_is_a_function_of_what_matters():
    path = "configs/omniglot.py:20way-1shot"
    folder = default_workdir(path, default_config())
    assert re.fullmatch(r"runs/omniglot-20way-1shot-maml-[0-9a-f]{8}", str(folder))
    free = {"plan.chunk": 4, "log_every_seconds": 1.0, "data.dir": "x", "eval.num_tasks": 9}
    assert default_workdir(path, changed(**free)) == folder
    assert default_workdir(path, changed(seed=1)) != folder


def test_a_run_resumes_only_with_its_own_settings(tmp_path):
    workdir = tmp_path / "run"
    record(changed(seed=7), workdir)
    record(default_config(), workdir)  # a start that failed before training binds to nothing
    (workdir / "last").mkdir()
    assert json.loads((workdir / "config.json").read_text())["data.ways"] == 5
    record(changed(**{"plan.devices": 2, "eval.num_steps": (5,)}), workdir)
    with pytest.raises(ConfigError, match=r"\(eval.queries 15 -> 3, seed 0 -> 7\): set them back"):
        record(changed(**{"seed": 7, "eval.queries": 3}), workdir)
    record(changed(**{"eval.queries": 3}), workdir, evaluate=True)
    with pytest.raises(ConfigError, match="seed 0 -> 7"):
        record(changed(seed=7), workdir, evaluate=True)
    (workdir / "last").rmdir()
    (workdir / "metrics.jsonl").write_text('{"step": 20}\n')
    with pytest.raises(ConfigError, match="seed 0 -> 7"):  # it has trained, whatever is left of it
        record(changed(seed=7), workdir)


def test_changes_are_accepted_told_and_stored_once_they_fit(tmp_path):
    record(changed(train_steps=9), tmp_path)
    (tmp_path / "last").mkdir()
    (tmp_path / "results.json").touch()
    before = (tmp_path / "config.json").read_text()
    later = changed(**{"train_steps": 12, "seed": 7})
    told = ["seed 0 -> 7", "train_steps 9 -> 12"]
    assert record(later, tmp_path, accept_changes=True) == told
    assert (tmp_path / "config.json").read_text() == before
    with pytest.raises(ConfigError, match="train_steps=8 but .* .* only be made longer"):
        record(changed(train_steps=8), tmp_path, accept_changes=True)
    rewrite(changed(**{"train_steps": 9, "plan.chunk": 3}), tmp_path)
    assert (tmp_path / "results.json").exists()  # the same run
    rewrite(later, tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert record(later, tmp_path) == []
    with pytest.raises(ConfigError, match="train_steps=9 but .* was started with 12"):
        record(changed(**{"train_steps": 9, "seed": 7}), tmp_path)


def test_a_setting_added_since_has_its_default_in_older_runs(tmp_path):
    record(default_config(), tmp_path)
    (tmp_path / "last").mkdir()
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    del stored["precision"]
    path.write_text(json.dumps(stored))
    record(default_config(), tmp_path)
    with pytest.raises(ConfigError, match="precision 'default' -> 'float32'"):
        record(changed(precision="float32"), tmp_path)


def test_an_unreadable_record_stops_the_run(tmp_path):
    (tmp_path / "last").mkdir()
    with pytest.raises(ConfigError, match="config.json is unreadable"):
        record(default_config(), tmp_path)
    for text in ("", "{", "[1]", "3", "\x00"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match="config.json is unreadable"):
            record(default_config(), tmp_path)
