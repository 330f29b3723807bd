"""Analyses of trained runs: what applies, what is written, and that the numbers are the run's."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.runs import ROOT, SETTINGS, sinusoids, tested, trained

import experiments
from configs import glyphs, nodes
from experiments.analyze import analyze, main
from experiments.choices.key import ConfigError
from experiments.report.analysis_numbers import correlation, in_order
from experiments.report.analysis_plots import plane
from experiments.settings.checks import check
from experiments.settings.record import record, recorded

ALL = {"cooperation", "gradient_norms", "similarity", "features", "agreement", "adaptation"}


def run(config, workdir, problem=None):
    check(config, own_problem=problem is not None)
    record(config, workdir)
    assert trained(config, workdir, problem)


def numbers_of(tree):
    if isinstance(tree, dict):
        return [n for value in tree.values() for n in numbers_of(value)]
    if isinstance(tree, list):
        return [n for value in tree for n in numbers_of(value)]
    return [tree] if not isinstance(tree, str) else []


def check_files(workdir, report, left_out):
    """All files are there, and no number is missing."""
    assert json.loads((workdir / "analysis.json").read_text()) == json.loads(json.dumps(report))
    assert set(report["left_out"]) == left_out
    assert ALL - left_out == ALL & set(report)
    assert all(n is not None and np.isfinite(n) for n in numbers_of(report))
    pictures = {path.stem for path in (workdir / "analysis").glob("*.png")}
    assert pictures == ALL - left_out
    for name in pictures:
        with Image.open(workdir / "analysis" / f"{name}.png") as picture:
            assert picture.width > 600


@pytest.fixture(scope="module")
def sinusoid(tmp_path_factory):
    """A run with CML and its results."""
    workdir = tmp_path_factory.mktemp("analysed") / "run"
    config = sinusoids(co_learner="mlp", **{"eval.num_steps": (5,), "eval.num_tasks": 8})
    run(config, workdir)
    return workdir, tested(config, workdir)


def test_the_sinusoid_with_cml(sinusoid, capfd):
    workdir, results = sinusoid
    report = analyze(workdir, num_tasks=7)
    said = capfd.readouterr()
    assert said.err == "left out: features: tasks have no classes\n"
    assert len(said.out.splitlines()) == len(ALL)  # a line for each of the others, and the file
    check_files(workdir, report, {"features"})
    assert report["num_tasks"] == 8 and report["tasks_per_batch"] == 4
    assert report["step"] == results.validation["step"] and report["num_steps"] == 2
    layers = ["body/Linear_0/Dense_0", "body/Linear_1/Dense_0"]
    assert list(report["cooperation"]["layers"]) == layers
    assert list(report["gradient_norms"]["query"]) == [*layers, "head/Dense_0"]
    assert list(report["similarity"]) == ["body/Linear_0", "body/Linear_1", "body", "head"]
    # The test after five inner steps, on the same tasks.
    curve = report["adaptation"]
    assert curve["num_steps"] == [0, 1, 2, 4, 5, 10] and curve["trained"] == 2
    assert curve["mean"][4] == pytest.approx(results.test["mse"], rel=1e-5)
    assert curve["ci95"][4] == pytest.approx(results.test["ci95"], rel=1e-5)


def test_the_command(sinusoid):
    workdir, _ = sinusoid
    command = [sys.executable, "-m", "experiments.analyze", f"--workdir={workdir}"]
    command += ["--num_tasks=4", "--split=train", "--checkpoint=last", "--only=agreement"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"numbers: {workdir / 'analysis.json'}"
    report = json.loads((workdir / "analysis.json").read_text())
    assert (report["split"], report["checkpoint"], report["step"]) == ("train", "last", 3)
    assert ALL & set(report) == {"agreement"}


@pytest.fixture(scope="module")
def of_glyphs(tmp_path_factory):
    """A run on images with CML and agreement, in first order to compile less."""
    config = glyphs.get_config("2way-2shot")
    config.method = "fomaml"
    config.model.filters, config.tasks_per_step, config.train_steps = 4, 2, 2
    config.co_learner, config.weighting = "linear", "gradient_agreement"
    config.eval.every, config.eval.validation_tasks = 2, 2
    config.outer_schedule = "constant"  # optax's cosine promotes, which the tests refuse
    workdir = tmp_path_factory.mktemp("analysed") / "run"
    run(config, workdir)
    return workdir


def test_features_of_images(of_glyphs):
    report = analyze(of_glyphs, num_tasks=4, only=["features"])
    for part in ("support", "query"):
        for when in ("before", "after"):
            assert 0 < report["features"][part][when]["mean"] < 1
    assert (of_glyphs / "analysis" / "features.png").exists()


@pytest.mark.slow
def test_images_with_cml_and_agreement(of_glyphs):
    report = analyze(of_glyphs, num_tasks=2)
    check_files(of_glyphs, report, set())
    assert "body/ConvBlock_3/BatchNorm_0" in report["cooperation"]["layers"]
    assert list(report["gradient_norms"]["query"])[:2] == ["body/ConvBlock_0", "body/ConvBlock_1"]
    assert list(report["similarity"])[-2:] == ["body", "head"]


def of_nodes(**changes):
    config = nodes.get_config()
    config.train_steps = config.eval.every = 2
    config.eval.validation_tasks = config.eval.num_tasks = 2
    config.num_steps, config.eval.queries, config.plan.devices = 1, 3, 1
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        (config[section] if section else config)[key] = value
    return config


def test_nodes_one_task_a_step(tmp_path):
    run(of_nodes(), tmp_path / "run")
    report = analyze(tmp_path / "run", num_tasks=3, only=["cooperation", "agreement"])
    assert report["left_out"] == {"cooperation": "the run has no co-learner"}
    assert report["num_tasks"] == report["tasks_per_batch"] == 8
    assert all(np.isfinite(numbers_of(report["agreement"])))


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(SETTINGS.keys() - {"maml", "fomaml", "boil"}))
def test_every_method_beside_mamls_kind(tmp_path, method):
    beside = {} if method == "collaborative" else {"co_learner": "mlp"}
    run(sinusoids(method, **beside), tmp_path / "run")
    check_files(tmp_path / "run", analyze(tmp_path / "run", num_tasks=4), {"features"})


@pytest.mark.slow
@pytest.mark.parametrize("network", ["gcn", "gmeta", "amm_gnn", "sgc"])
def test_every_network_on_graphs(tmp_path, network):
    changes = {"model.name": network, "co_learner": "mlp", "tasks_per_step": 2}
    run(of_nodes(**changes, **{"eval.queries": 5}), tmp_path / "run")
    check_files(tmp_path / "run", analyze(tmp_path / "run", num_tasks=2), set())


@pytest.mark.slow
def test_one_of_several_seeds(tmp_path):
    run(sinusoids(num_seeds=2), tmp_path / "both")
    run(sinusoids(seed=1), tmp_path / "alone")
    of_both = analyze(tmp_path / "both", num_tasks=4, replica=1)
    alone = analyze(tmp_path / "alone", num_tasks=4)
    assert of_both["seed"] == alone["seed"] == 1 and of_both["step"] == alone["step"]
    found, expected = (np.array(numbers_of(each["adaptation"])[1:]) for each in (of_both, alone))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ConfigError, match="--replica=2 but there are 2"):
        analyze(tmp_path / "both", replica=2)


@pytest.mark.slow
def test_a_problem_of_ones_own_without_layers(tmp_path):
    from cml_jax import losses, models
    from cml_jax.tasks import sinusoid

    problem = experiments.Problem(
        model=models.mlp(hidden=(8, 8))._replace(layers=None),
        train_sample=lambda key, data: sinusoid(key, shots=5, queries=7),
        loss=losses.squared_error,
        metric=losses.squared_error,
        metric_name="mse",
        larger_is_better=False,
        co_learner=models.mlp_co_learner(width=4),
        small=True,
    )
    config = sinusoids()
    run(config, tmp_path / "run", problem)
    report = analyze(tmp_path / "run", problem, num_tasks=4)
    check_files(tmp_path / "run", report, {"similarity", "features"})


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    return said.err


def test_what_cannot_be_analysed_is_refused_in_a_line(tmp_path, sinusoid, capsys, monkeypatch):
    nothing = refused(capsys, f"--workdir={tmp_path / 'none'}")
    assert nothing == (
        f"error: no run in {tmp_path / 'none'}: choose the --workdir of one that is trained\n"
    )
    record(sinusoids(), tmp_path / "new")
    with pytest.raises(ConfigError, match="has no checkpoint in best/: train it first"):
        analyze(tmp_path / "new")
    text = (tmp_path / "new" / "config.json").read_text()
    (tmp_path / "new" / "config.json").write_text(text.replace('"seed": 0', '"sead": 0'))
    assert "has sead=0, which this version does not know" in refused(
        capsys, f"--workdir={tmp_path / 'new'}"
    )
    workdir, _ = sinusoid
    with pytest.raises(ConfigError, match="--num_tasks=0: needs 1 or more"):
        analyze(workdir, num_tasks=0)
    with pytest.raises(ConfigError, match="--only=cka: there is no such analysis in cooperation"):
        analyze(workdir, only=["cka"])
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"needs scikit-learn: pip install 'cml_jax\[analysis\]'"):
        analyze(workdir, embedding="tsne")


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(f"--{flag}" in said for flag in ("workdir", "split", "num_tasks", "checkpoint"))


def test_the_recorded_config_is_the_one_that_was_given(tmp_path):
    config = sinusoids(**{"eval.num_steps": (1, 5), "data.phase": (0.0, 6.0)})
    record(config, tmp_path)
    assert recorded(tmp_path).to_dict() == config.to_dict()


def test_layers_are_in_the_order_of_the_network():
    names = ["body", "body/Block_10", "body/Block_2", "body/Block_2/Norm_0", "head"]
    assert in_order(dict.fromkeys(names)) == [names[3], names[2], names[1], names[0], names[4]]


def test_correlation_of_what_does_not_vary_is_none():
    x = np.array([1.0, 2.0, 3.0])
    assert correlation(x, -2 * x) == pytest.approx(-1)
    assert correlation(x, np.ones(3)) is None


def test_few_examples_in_a_plane():
    for shape in [(1, 3), (4, 1), (2, 2, 2), (5, 3)]:
        points, _ = plane(np.arange(np.prod(shape), dtype=np.float32).reshape(shape) ** 2, "pca")
        assert points.shape == (shape[0], 2) and np.isfinite(points).all()
