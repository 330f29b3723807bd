"""The report of a run: what is in it, that nothing in it runs, and that it never fails a run."""

import json
import sys
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import sinusoids, tested, trained

from cml_jax import Batch, Task
from experiments import make_report
from experiments.build import Problem
from experiments.report import document, run_report
from experiments.report.html import to_html
from experiments.report.published import PUBLISHED, beside
from experiments.report.run_pictures import thinned
from experiments.report.themed import with_readers_ink
from experiments.run_folder.results import Results, read_results
from experiments.run_folder.task_values import read_task_values
from experiments.settings.record import record

HOSTILE = "<script>alert('a')</script>\"'|`&$\\frac$[a](b)"
VOID = ("meta", "img", "br")


class Page(HTMLParser):
    """The elements of a page; a tag that is not closed where it should be fails."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data.replace("\xa0", " ")

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(text):
    """A page that needs no network and no eyes."""
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "iframe", "object", "link"})
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in page.all("img"))
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    assert all(link["href"].startswith("#part-") for link in page.all("a"))
    assert len(text.encode()) < 1_500_000
    return page


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two seeds for each of two rates."""
    workdir = tmp_path_factory.mktemp("run")
    config = sinusoids(num_seeds=2, sweep="inner_learning_rate", sweep_values=(0.02, 0.05))
    record(config, workdir)
    assert trained(config, workdir)
    tested(config, workdir)
    return workdir


def test_what_is_in_it(workdir):
    page = check_page((workdir / "report.html").read_text())
    results = read_results(workdir)
    best = f"{results.test['mse']:.4f} ± {results.test['ci95']:.4f}"
    words = ["2 seeds of 4 tasks", "inner_learning_rate", "optax", best, "The hardest test tasks"]
    for word in words:
        assert word in page.text
    for name in ("curve_metric", "tasks", "fits"):
        assert (workdir / "report" / f"{name}.svg").exists()
    markdown = (workdir / "report.md").read_text()
    assert best in markdown and "](report/curve_metric.svg)" in markdown
    for replica in results.runs:
        assert f"{replica['validation/mse']:.4f}" in page.text


def test_the_hardest_tasks_have_their_seed(workdir):
    results = read_results(workdir)
    values = read_task_values(workdir, results)[results.test_all.index(results.test)]
    replica, task = np.unravel_index(values.argmax(), values.shape)
    lines = (workdir / "report.md").read_text().splitlines()
    table = lines[next(i for i, line in enumerate(lines) if "hardest" in line) + 4]
    cells = [cell.strip() for cell in table.strip("|").split("|")]
    assert cells == [str(task), str(replica), f"{values.max():.4f}"]


def test_names_from_outside_do_not_run(workdir, tmp_path):
    """A class name, a warning, and what an analysis says, as hostile as text can be."""
    for path in workdir.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((tmp_path / "results.json").read_text())
    values |= {"warnings": [HOSTILE], "plan": HOSTILE}
    (tmp_path / "results.json").write_text(json.dumps(values))
    (tmp_path / "analysis.json").write_text(json.dumps({HOSTILE: {"x": HOSTILE}, "a": HOSTILE}))

    def draw(key, data):
        images = jax.random.uniform(key, (4, 6, 6, 1))
        part = Batch(images, jnp.array([0, 1, 0, 1]))
        return Task(part, part)

    problem = Problem(None, draw, None, None, class_names=lambda key, split: [HOSTILE, "b"])
    run_report.write_report(tmp_path, problem, command=HOSTILE)
    text = (tmp_path / "report.html").read_text()
    page = check_page(text)
    assert page.text.count("<script>alert('a')</script>") > 10  # shown as it is
    assert "<script" not in text and "%3Cscript" not in text
    assert "<script" not in (tmp_path / "report" / "episode.svg").read_text()
    indented = [line for line in (tmp_path / "report.md").read_text().splitlines() if line]
    assert not any("<script" in line for line in indented if not line.startswith("    "))


def test_without_matplotlib_it_says_so(workdir, tmp_path, monkeypatch):
    for name in ("results.json", "config.json", "metrics.jsonl", "task_values.npz"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run_report.write_report(tmp_path)
    page = check_page((tmp_path / "report.html").read_text())
    assert page.all("img") == [] and "pip install 'cml_jax[plots]'" in page.text


def test_a_report_that_fails_fails_no_run(workdir, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("no\nfont")

    monkeypatch.setattr(run_report, "to_html", fail)
    run_report.try_report(workdir)
    assert "warning: no report (RuntimeError: no font)\n" in capsys.readouterr().err


def test_again_with_analyses(workdir, capsys):
    """Pictures that the command cannot make again stay; a picture that is none is left out."""
    (workdir / "analysis").mkdir()
    (workdir / "analysis" / "similarity.png").write_bytes(b"<svg onload=alert(1)>")
    layers = {"body": {"mean": 1.0, "sd": 0.0}, "head": {"mean": 0.5, "sd": 0.25}}
    found = {"step": 3, "num_tasks": 8, "similarity": layers, "agreement": {"weights": "none"}}
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "analysis/step_length": 2.0}\n')
    found |= {"left_out": {"features": "tasks have no classes"}}
    (workdir / "analysis.json").write_text(json.dumps(found))
    assert make_report.main([f"--workdir={workdir}"]) == 0
    assert capsys.readouterr().out == f"report: {workdir / 'report.html'}\n"
    page = check_page((workdir / "report.html").read_text())
    words = ["0.5, sd 0.25", "features: tasks have no classes", "similarity: no PNG"]
    words += ["Over 8 tasks, adaptation changes head (0.50) most and body (1.00) least (CKA)."]
    for word in [*words, "The weighted step's length goes from 2.00 to 2.00 times the mean's"]:
        assert word in page.text
    assert any(image["alt"].startswith("Agreement over training") for image in page.all("img"))
    assert "](report/fits.svg)" in (workdir / "report.md").read_text()
    (workdir / "analysis.json").write_text("{")
    assert make_report.main([f"--workdir={workdir}"]) == 0
    assert "analysis.json is unreadable" in Page((workdir / "report.html").read_text()).text


def test_a_folder_without_results(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        make_report.main([f"--workdir={tmp_path}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "has no results.json" in error and error.count("\n") == 1


def results_of(method, data, ways, shots, co_learner="none", weighting="uniform", **test):
    metric = "mse" if ways is None else "accuracy"
    test = {"predicts": "meta-learner", "num_steps": 1, "transductive": True} | test
    test |= {metric: 0.5, "ci95": 0.1, "num_tasks": 10}
    return Results(
        method=method,
        weighting=weighting,
        co_learner=co_learner,
        data=data,
        protocol={"ways": ways, "shots": shots},
        split_hash="",
        graph=None,
        validation={metric: 0.5, "step": 1},
        test=test,
        test_all=[test],
        seed=0,
        wall_seconds=None,
    )


CONV = {"model.name": "conv4"}
BESIDE = [
    (results_of("maml", "sinusoid", None, 5, num_steps=5), {"model.name": "mlp"}, ["0.38"]),
    (results_of("maml", "sinusoid", None, 5, num_steps=3), {"model.name": "mlp"}, []),
    (results_of("maml", "sinusoid", None, 5, "mlp"), {"model.name": "mlp"}, []),
    (results_of("maml", "mini_imagenet", 5, 5, "conv"), CONV, ["65.84 ± 0.46"]),
    (
        results_of("maml", "mini_imagenet", 5, 1, "conv", predicts="co-learner (paper)"),
        CONV,
        ["50.35 ± 0.15"],
    ),
    (results_of("maml", "mini_imagenet", 5, 5, "conv"), CONV | {"co_learner_frozen": True}, []),
    (
        results_of("maml", "mini_imagenet", 5, 5, "conv"),
        CONV | {"co_learner_number": 1},
        ["65.84 ± 0.46"],
    ),
    (results_of("maml", "mini_imagenet", 5, 5, "conv"), CONV | {"co_learner_number": 2}, []),
    (results_of("maml", "mini_imagenet", 5, 5, "conv"), CONV | {"co_learner_support": True}, []),
    (results_of("maml", "cifar_fs", 5, 5, "conv"), {"model.name": "resnet12"}, ["78.31"]),
    (results_of("reptile", "omniglot", 20, 1, transductive=False), CONV, ["88.14 ± 0.15"]),
    (results_of("maml", "omniglot", 5, 1), CONV, ["98.7 ± 0.4", "91.78"]),
    (results_of("maml", "omniglot", 5, 2), CONV, []),
    (
        results_of("reptile", "omniglot", 5, 5, weighting="gradient_agreement"),
        CONV,
        ["99.8 ± 0.12"],
    ),
    (results_of("fomaml", "citeseer", 2, 1, "mlp"), {"model.name": "gmeta"}, ["61.17"]),
    (results_of("maml", "omniglot", 5, 1), {}, []),
]


@pytest.mark.parametrize("case", range(len(BESIDE)))
def test_what_is_published_stands_beside(case):
    results, settings, expected = BESIDE[case]
    assert [str(row) for row in beside(results, settings, results.test)] == expected


def test_no_number_is_published_twice_by_one_source():
    assert len({row._replace(value=0, half=None) for row in PUBLISHED}) == len(PUBLISHED)


def test_a_long_curve_keeps_its_validations():
    rows = [{"step": i} | ({"validation/mse": 1.0} if i % 999 == 0 else {}) for i in range(9000)]
    kept = thinned(rows)
    assert len(kept) < 2300 and sum("validation/mse" in row for row in kept) == 10
    assert thinned(rows[:1000]) == rows[:1000]


def test_the_readers_ink():
    svg = '<svg width="9pt"><metadata>x</metadata><path style="stroke: #000000; fill: #0072b2"/>'
    text = with_readers_ink(svg)
    assert "#000000" not in text and "metadata" not in text
    assert 'style="stroke: currentColor; fill: var(--blue)"' in text


def test_markdown_shows_texts_as_they_are(tmp_path):
    table = document.Table("a_b", ["x", "y"], [["inner_rate", "a|b"], ["*c*", "<d>"]])
    page = document.Document("t", "l", [], [document.Section("s", [table, "_e_"])])
    text = document.to_markdown(page, tmp_path)
    assert "| inner_rate | a\\|b      |" in text and "| \\*c\\*      | &lt;d&gt; |" in text
    assert "\\_e\\_" in text
    assert "| *c*        | <d> |" in document.to_text(page)
    check_page(to_html(page))
