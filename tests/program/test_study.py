"""Studies: what is stored gives the pages that are there, and runs give what is stored."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from experiments import study
from experiments.report import cells, front_table, pages, study_pages, table
from experiments.run_folder.results import Results, interval
from experiments.run_folder.task_values import write_task_values
from experiments.studies import STUDIES, Study
from experiments.studies.front import FRONT, Shown
from experiments.studies.study import cells_of, starts_of, tuning_of

ROOT = Path(__file__).parents[2]


def texts(docs):
    return {path.relative_to(docs): path.read_text() for path in docs.rglob("*.md")}


def test_the_pages_are_those_that_the_stored_numbers_give(tmp_path):
    docs = shutil.copytree(ROOT / "docs", tmp_path / "docs")
    assert {path.stem for path in (docs / "results").glob("*.md")} <= set(STUDIES)
    for page in ("results/omniglot.md", "results/nodes.md"):  # what is generated is not believed
        path = docs / page
        path.write_text(re.sub(r"(?m)^(\| .*) ± ", r"\1 ± 9", path.read_text()))
    study_pages.write_pages(docs, STUDIES)
    assert texts(docs) == texts(ROOT / "docs")


def made(metric, values, predicts="meta-learner", steps=(1,), **more):
    """The results of a run, one test for each number of inner steps."""
    about = {"predicts": predicts, "transductive": True}
    tests = [about | {"num_steps": k} | interval(metric, values) for k in steps]
    return Results(
        method="maml",
        data="own",
        split_hash="",
        graph=None,
        validation={metric: 0.5, "step": 7},
        test=tests[0],
        test_all=tests,
        seed=0,
        wall_seconds=90.0,
        plan="1 x cpu",
        **more,
    )


def test_repeats_are_one_result_with_an_interval_over_them():
    repeats = [made("rank", [value, value + 1.0]) for value in (1.0, 2.0, 4.0)]
    whole = cells.combined(repeats)
    expected = interval("rank", [[1.5], [2.5], [4.5]])
    assert whole.test["values"] == [1.5, 2.5, 4.5] and whole.test["num_tasks"] == 2
    assert whole.test["rank"] == expected["rank"] and whole.test["ci95"] == expected["ci95"]
    assert whole.test["num_seeds"] == 3 and whole.wall_seconds == 270
    assert whole.runs == [{"best_step": 7}] * 3
    assert cells.combined(repeats[:1]) is repeats[0]


@pytest.mark.parametrize("metric, kept", [("accuracy", [0.613, 0.333]), ("mse", [0.6133, 0.3333])])
def test_tasks_are_stored_with_few_decimals(tmp_path, metric, kept):
    run = made(metric, [46 / 75, 25 / 75], protocol={"train_steps": 3})
    run.write(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    write_task_values(tmp_path, [np.array([[46 / 75, 25 / 75]], np.float32)])
    path = tmp_path / "own.json"
    cells.store(path, "A", "0", "python", tmp_path, True)
    (test,) = cells.load(path)["A"]["cells"]["0"]["test_all"]
    assert test["task_values"] == kept


OWN = Study(
    "configs/glyphs.py",
    {"1-shot: A": (), "1-shot: A + CML": ("co_learner=conv",)},
    repeats=(("seed=0",), ("seed=1",)),
    base={"A + CML": "A"},
    probes={"5-shot: probing": ("data.shots=5",)},
    beside={"published": {"1-shot": "91"}},
)


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """The folder of an empty page of results; runs and pages are beside it."""
    monkeypatch.chdir(tmp_path)
    docs = tmp_path / "docs"
    (docs / "results").mkdir(parents=True)
    (docs / "results.md").write_text("<!-- generated: studies -->\n<!-- end -->\n")
    return docs


REACHED = {"1-shot-a": (0.5, 0.7), "1-shot-a-cml": (0.6, 0.7), "5-shot-probing": (0.2, 0.3)}


class Runs:
    """In the place of the program: writes what a run reaches, or fails, or is stopped."""

    TimeoutExpired, CompletedProcess = subprocess.TimeoutExpired, subprocess.CompletedProcess

    def __init__(self, fails="", slow=""):
        self.fails, self.slow, self.started, self.signals = fails, slow, [], []

    def Popen(self, command, **_):
        self.started.append(" ".join(command[1:]))
        workdir = Path(command[-1].removeprefix("--workdir="))
        runs = self

        class Process:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def wait(self, seconds=None):
                if runs.fails and str(workdir).endswith(runs.fails):
                    return 1
                if runs.slow and str(workdir).endswith(runs.slow):
                    if seconds is not None:
                        raise subprocess.TimeoutExpired("run", seconds)
                    return 1
                runs.reach(workdir)
                return 0

            def send_signal(self, number):
                runs.signals.append(number)

        return Process()

    def run(self, command, **_):
        self.started.append(" ".join(command[1:]))
        self.reach(Path(command[-2].removeprefix("--workdir=")))
        return subprocess.CompletedProcess(command, 0)

    def reach(self, workdir):
        mean = REACHED[workdir.parent.name][int(workdir.name)]
        protocol = {"train_steps": 900}
        made("accuracy", [mean - 0.1, mean + 0.1], protocol=protocol).write(workdir)
        rows = [{"step": i, "validation/accuracy": min(0.1 * i, 0.8)} for i in range(1, 41)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(monkeypatch, runs, wanted=None, own=None, **how):
    monkeypatch.setattr(study, "subprocess", runs)
    wanted = cells_of("own", OWN) if wanted is None else wanted
    return study.run_all("own", own or OWN, wanted, jobs=1, **how)


def test_runs_become_a_page(docs, monkeypatch):
    assert make(monkeypatch, Runs())
    study_pages.draw("own", OWN, docs / "results")
    study_pages.write_pages(docs, {"own": OWN})
    stored = json.loads((docs / "results" / "own.json").read_text())
    command = stored["1-shot: A + CML"]["command"]
    assert command.endswith("--config=configs/glyphs.py --config.co_learner=conv")
    command = stored["5-shot: probing"]["command"]
    assert command.startswith("python -m experiments.linear_probing ")
    assert (docs / "results" / "own.png").stat().st_size > 5000
    page = (docs / "results" / "own.md").read_text()
    assert page.startswith("# own\n") and "| published | 91 | - |" in page
    # sd 0.141 and, of the second and of the differences 0.1 and 0, 0.0707; the tables' t of one
    # degree of freedom is 12.706.
    assert "| A | 60.00 ± 127.06 | - |" in page
    assert "| A + CML | 65.00 ± 63.53 (+5.0 ± 63.5) | - |" in page
    assert "2 test tasks for each of 2 seeds, intervals over seeds, 1 x cpu." in page
    assert "| 1-shot: A + CML | 40, 2 of 2 flat | 7 | 3.0 | `python -m experiments.main" in page
    assert "| [own](results/own.md) |" in (docs / "results.md").read_text()

    # What was written by hand stays.
    (docs / "results" / "own.md").write_text(page.replace("## Found\n", "## Found\n\nIt works.\n"))
    study_pages.write_pages(docs, {"own": OWN})
    assert "\nIt works.\n" in (docs / "results" / "own.md").read_text()
    assert "| It works. |" in (docs / "results.md").read_text()


def test_a_page_whose_runs_are_still_to_come_stays_as_it_is(docs):
    page = docs / "results" / "own.md"
    page.write_text("# Own\n\nDoes A help?\n")
    study_pages.write_pages(docs, {"own": OWN})
    assert page.read_text() == "# Own\n\nDoes A help?\n"
    assert "own.md" not in (docs / "results.md").read_text()


def test_the_picture_of_runs_without_curves_stays_as_it_is(docs, monkeypatch):
    assert make(monkeypatch, Runs())
    (docs / "results" / "own.png").write_text("of another day")
    path = docs / "results" / "own.json"
    stored = json.loads(path.read_text())
    for cell in (cell for entry in stored.values() for cell in entry["cells"].values()):
        cell.pop("curve", None)
    path.write_text(json.dumps(stored))
    study_pages.draw("own", OWN._replace(curve="validation/accuracy"), docs / "results")
    assert (docs / "results" / "own.png").read_text() == "of another day"


TUNED = OWN._replace(
    tune={"1-shot: A": {"outer_learning_rate": (0.001, 0.01), "inner_learning_rate": (0.1, 0.4)}},
    tuning=("train_steps=90", "num_seeds=2"),
)


def test_what_is_tuned_on_validation_tasks_is_what_the_runs_have(docs, monkeypatch):
    rounds = tuning_of("own", TUNED)
    assert [[cell.repeat for cell in own] for own in rounds] == [
        ["outer_learning_rate"],
        ["inner_learning_rate"],
    ]
    reached = {"outer_learning_rate": (0.3, float("inf")), "inner_learning_rate": (0.5, 0.6)}
    best = {"outer_learning_rate": 0.001, "inner_learning_rate": 0.4}
    runs = Runs()

    def tune(workdir):
        key = workdir.name.rpartition("-")[2]
        values = TUNED.tune["1-shot: A"][key]
        each = [
            {"seed": seed, key: value, "validation/accuracy": mean + 0.1 * seed}
            for value, mean in zip(values, reached[key], strict=True)
            for seed in (0, 1)
        ]
        of_best = reached[key][values.index(best[key])] + 0.05
        results = made("accuracy", [0.0, 0.0], protocol={"train_steps": 90}, runs=each)
        dataclasses.replace(results, validation={"accuracy": of_best, "step": 1}).write(workdir)

    monkeypatch.setattr(runs, "reach", tune)
    for own in rounds:
        assert make(monkeypatch, runs, own)
    assert runs.started == [
        "-m experiments.main --config=configs/glyphs.py --config.train_steps=90 "
        "--config.num_seeds=2 --config.sweep=outer_learning_rate --config.sweep_values=0.001,0.01 "
        "--workdir=runs/own/1-shot-a-tune-outer_learning_rate",
        "-m experiments.main --config=configs/glyphs.py --config.outer_learning_rate=0.001 "
        "--config.train_steps=90 --config.num_seeds=2 --config.sweep=inner_learning_rate "
        "--config.sweep_values=0.1,0.4 --workdir=runs/own/1-shot-a-tune-inner_learning_rate",
    ]
    assert make(monkeypatch, again := Runs(), rounds[0]) and not again.started
    assert make(monkeypatch, again)
    chosen = "--config.outer_learning_rate=0.001 --config.inner_learning_rate=0.4"
    assert f"glyphs.py {chosen} --config.seed=0 " in again.started[2]
    assert chosen not in again.started[4]  # of another row
    shared = TUNED._replace(tuned_as={"1-shot: A + CML": "1-shot: A"})
    stored = json.loads((docs / "results" / "own.json").read_text())
    del stored["1-shot: A + CML"]
    (docs / "results" / "own.json").write_text(json.dumps(stored))
    assert make(monkeypatch, again := Runs(), own=shared)
    assert [f" {chosen} " in line for line in again.started] == [True, True]
    study_pages.draw("own", TUNED, docs / "results")
    study_pages.write_pages(docs, {"own": TUNED})
    page = (docs / "results" / "own.md").read_text()
    assert "| 1-shot: A | `outer_learning_rate` | **0.001: 35.0**, 0.01: not finite | 90 |" in page
    assert "| 1-shot: A | `inner_learning_rate` | 0.1: 55.0, **0.4: 65.0** | 90 |" in page
    assert f"glyphs.py {chosen}` |" in page


@pytest.mark.parametrize("fails", ["", "1-shot-a-cml/1"])
def test_every_run_of_every_repeat_is_started(monkeypatch, docs, fails):
    runs = Runs(fails)
    assert make(monkeypatch, runs) == (not fails)
    # After a run that failed, those that wait are not started.
    assert len(runs.started) == 6 if not fails else 6 >= len(runs.started) > 5
    assert "linear_probing" in runs.started[1]  # the others may start from it
    assert runs.started[3] == (
        "-m experiments.main --config=configs/glyphs.py --config.seed=1 "
        "--workdir=runs/own/1-shot-a/1"
    )


def test_what_is_stored_is_not_made_again(monkeypatch, docs):
    """Also on another machine, where the runs' folders are not."""
    assert not make(monkeypatch, Runs(fails="1-shot-a-cml/1"))
    shutil.rmtree("runs")
    again = Runs()
    assert make(monkeypatch, again)
    assert [line.rpartition("own/")[2] for line in again.started][:1] == ["1-shot-a-cml/1"]


def test_what_others_start_from_is_made_again_where_its_folder_is_not(monkeypatch, docs):
    start = "runs/own/5-shot-probing/0"
    probed = OWN._replace(runs=OWN.runs | {"1-shot: B": (f"init_from={start}",)})
    every = cells_of("own", probed)
    assert not starts_of("own", probed, [cell for cell in every if cell.label != "1-shot: B"])
    starts = starts_of("own", probed, every)
    assert [cell.workdir.as_posix() for cell in starts] == [start]
    for made_again in (True, False):
        assert make(monkeypatch, runs := Runs(), starts, folders=True)
        assert len(runs.started) == made_again
    shutil.rmtree("runs")
    assert make(monkeypatch, runs := Runs(), starts) and not runs.started
    assert make(monkeypatch, runs := Runs(), starts, folders=True) and len(runs.started) == 1


def test_a_run_that_takes_too_long_is_tested_as_far_as_it_is(monkeypatch, docs):
    first = cells_of("own", OWN)[2]
    assert first.workdir.as_posix() == "runs/own/1-shot-a/0"
    runs = Runs(slow="1-shot-a/0")
    assert make(monkeypatch, runs, [first], minutes=0.5)
    assert runs.signals == [signal.SIGTERM] and runs.started[-1].endswith(" --evaluate")
    entry = json.loads((docs / "results" / "own.json").read_text())["1-shot: A"]
    assert cells.how_far(entry) == "40 of 900, flat"
    assert not (first.workdir / "results.json").exists()  # so that it goes on the next time
    assert make(monkeypatch, runs := Runs(), [first]) and len(runs.started) == 1
    entry = json.loads((docs / "results" / "own.json").read_text())["1-shot: A"]
    assert cells.how_far(entry) == "40, flat"
    assert make(monkeypatch, runs := Runs(), [first]) and not runs.started


def test_a_metric_of_any_name_has_a_table():
    runs = {"A": made("rank", [1.0, 3.0], steps=(1, 5)), "B": made("rank", [2.0, 4.0])}
    assert table.of_tests(runs).splitlines() == [
        "| run | predicts | inner steps | rank |",
        "| --- | --- | --- | --- |",
        "| A | meta-learner | 1 | 2.000 ± 1.960 |",
        "| A | meta-learner | 5 | 2.000 ± 1.960 |",
        "| B | meta-learner | 1 | 3.000 ± 1.960 |",
    ]
    assert "| A | 2.000 ± 1.960 |" in table.of_methods(runs)
    two = runs["A"]
    two = dataclasses.replace(two, test_all=[two.test, two.test | {"transductive": False}])
    assert table.of_tests({"A": two}).splitlines()[0].endswith("at once | each query alone |")


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<!-- generated: table -->\n",
        "<!-- generated: other -->\n<!-- end -->\n",
        "<!-- generated: table -->\n<!-- end -->\n" * 2,
        "<!-- generated: table -->\n<!-- generated: table -->\n<!-- end -->\n",
    ],
)
def test_a_page_without_a_place_is_told(page):
    with pytest.raises(ValueError, match="write <!-- generated: NAME --> and <!-- end -->"):
        pages.fill(page, {"table": "new"})


def test_what_a_page_says():
    page = "# A title\n\nIs it\nso?\n\nMore.\n\n## Found\n\nYes,\nit is.\n\nDetails.\n"
    assert pages.words(page) == ("A title", "Is it so?", "Yes, it is.")
    assert pages.words(pages.NEW_PAGE.format(name="x")) == ("x", "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one or more studies, or give --pages alone"),
        (["omniglot", "--pages"], "give --pages alone"),
        (["omniglott"], "there is no study omniglott: choose from omniglot, "),
        (["omniglot", "--jobs=9999"], "--jobs=9999: needs 1 to "),
        (["omniglot", "--only=x"], "--only=x is in no label of omniglot: leave it out"),
        (["omniglot", "--minutes=0"], "--minutes=0.0: give a positive number"),
    ],
)
def test_mistakes_are_told(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["study", *arguments])
    with pytest.raises(SystemExit) as stop:
        study.main()
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("only", "labels"),
    [
        ("MAML", {"MAML"}),
        ("MAML +", {"MAML + CML", "MAML + agreement"}),
        ("", {"MAML", "MAML + CML", "MAML + agreement"}),
    ],
)
def test_only_takes_one_label_or_all_with_a_text(monkeypatch, only, labels):
    made = set()

    def run_all(name, own, wanted, *_, **__):
        made.update(cell.label for cell in wanted)
        return True

    monkeypatch.setattr("sys.argv", ["study", "omniglot", f"--only={only}"])
    monkeypatch.setattr(study, "run_all", run_all)
    monkeypatch.setattr(study_pages, "draw", lambda *_: None)
    monkeypatch.setattr(study_pages, "write_pages", lambda *_: None)
    assert study.main() == 0 and made == labels


def test_what_a_label_is_tuned_as_is_tuned_before_it(monkeypatch):
    made = []

    def run_all(name, own, wanted, *_, **__):
        made.extend((cell.label, cell.tunes) for cell in wanted)
        return True

    monkeypatch.setattr("sys.argv", ["study", "omniglot_methods", "--only=5-shot: ANIL"])
    monkeypatch.setattr(study, "run_all", run_all)
    monkeypatch.setattr(study_pages, "draw", lambda *_: None)
    monkeypatch.setattr(study_pages, "write_pages", lambda *_: None)
    assert study.main() == 0
    assert made == [("1-shot: ANIL", True)] * 2 + [("5-shot: ANIL", False)]


def test_two_runs_are_paired_over_their_tasks():
    a, b = made("accuracy", [0.2, 0.4, 0.9]), made("accuracy", [0.3, 0.6, 1.0])
    for run, values in ((a, [0.2, 0.4, 0.9]), (b, [0.3, 0.6, 1.0])):
        run.test_all[0]["task_values"] = values
    runs = {"1-shot: A": a, "1-shot: A + CML": b}
    # Differences 0.1, 0.2, 0.1: sd 0.0577, 1.96 sd / sqrt(3) is 0.0653.
    assert "(+13.3 ± 6.5) |" in table.of_methods(runs, {"A + CML": "A"})


@pytest.mark.parametrize(
    ("metric", "values", "published", "said"),
    [
        ("accuracy", [0.5, 0.7], (0.71, 0.0), "60.00 ± 19.60 (71.00) ✓"),
        ("accuracy", [0.59, 0.61], (0.65, 0.01), "60.00 ± 1.96 (65.00 ± 1.00) ▼"),
        ("accuracy", [0.59, 0.61], (0.57, 0.0), "60.00 ± 1.96 (57.00) ▲"),
        ("mse", [1.0, 1.0], (1.5, 0.0), "1.000 ± 0.000 (1.500) ▲"),
        ("mse", [1.0, 1.0], None, "1.000 ± 0.000"),
    ],
)
def test_a_cell_of_the_front_table_is_beside_the_published_number(metric, values, published, said):
    shown = Shown("A", "data", "own", "A", published)
    assert front_table.cell(made(metric, values), shown) == said


def test_what_the_front_table_shows_is_a_run_of_a_study():
    for shown in FRONT:
        study_of = STUDIES[shown.study]
        assert shown.label in study_of.runs | study_of.probes, shown
