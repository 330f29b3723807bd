"""The report of a finished run: report.html and report.md, from what is in its folder."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.choices.outer import METRICS
from experiments.report import analysis_section, confusion, run_pictures
from experiments.report.document import (
    Block,
    Code,
    Document,
    Folded,
    Items,
    Number,
    Picture,
    Section,
    Table,
    in_words,
    to_markdown,
)
from experiments.report.html import to_html
from experiments.report.published import beside
from experiments.report.table import LONG_NAMES
from experiments.run_folder import folder
from experiments.run_folder.folder import Row
from experiments.run_folder.progress import duration
from experiments.run_folder.results import (
    Results,
    Test,
    is_share,
    read_results,
    steps_in_words,
)
from experiments.run_folder.task_values import read_task_values
from experiments.settings.config import KEYS
from experiments.settings.record import settings_of

if TYPE_CHECKING:
    from experiments.build import Problem

_COMMAND = "command.txt"
_HARDEST = 10


class _Run(NamedTuple):
    """What a report is made from; `left_out` collects what it does not show, and why."""

    workdir: Path
    results: Results
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    values: Sequence[np.ndarray]
    problem: "Problem | None"
    left_out: list[str]


def try_report(workdir: Path, **about: Any) -> None:
    """The report of a run that has just ended; a failure is a warning, and its numbers stand.

    Args:
      workdir: The run's folder.
      **about: Arguments of `write_report` beside the command, which is that of this program.
    """
    try:
        path = write_report(workdir, command=_command(), **about)
        print(f"report: {path}", file=sys.stderr)
    except Exception as error:  # whatever a file, a font or a picture can raise
        line = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"warning: no report ({line[:300]})", file=sys.stderr)


def _command() -> str:
    """The command line of this program; "" where the run was started from Python."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("experiments."):
        return ""
    arguments = [a for a in sys.argv[1:] if a.lstrip("-") != "evaluate"]  # without, it trains too
    return shlex.join(["python", "-m", spec.name, *arguments])


def write_report(
    workdir: Path,
    problem: "Problem | None" = None,
    examples: Sequence[Mapping[str, Any]] = (),
    command: str = "",
) -> Path:
    """Writes report.html, report.md and their pictures.

    Args:
      workdir: The folder of a finished run.
      problem: What was learned, for a sampled task and the names of classes; without it, an episode
        that was drawn before is shown.
      examples: Regression tasks as in `plots.fits`; without them, a picture drawn before is shown.
      command: The command of the run; "" is the one that an earlier report was given.

    Returns:
      The path of report.html.

    Raises:
      ValueError: A file of the run is missing or damaged.
      OSError: A file cannot be written.
    """
    results, left_out = read_results(workdir), []
    try:
        values = read_task_values(workdir, results)
    except ValueError as error:
        values = []
        left_out.append(f"What each test task got: {error}.")
    settings, rows = settings_of(workdir, results.data), folder.read_rows(workdir)
    run = _Run(workdir, results, settings, rows, values, problem, left_out)
    document = _document(run, examples, _kept_command(workdir, command))
    page = workdir / folder.REPORT
    folder.replace_file(workdir / folder.REPORT_MARKDOWN, to_markdown(document, workdir).encode())
    folder.replace_file(page, to_html(document).encode())
    return page


def _kept_command(workdir: Path, command: str) -> str:
    path = workdir / folder.REPORT_PICTURES / _COMMAND
    if command:
        folder.replace_file(path, command.encode())
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _document(run: _Run, examples, command: str) -> Document:
    results = run.results
    sections = [
        Section("Warnings", [Items(results.warnings)] if results.warnings else []),
        Section("Tests", [_tests(run)]),
        Section("Training", [*_curves(run), *_replicas(run)]),
        Section("Test tasks", [*_episode(run), *_fits(run, examples)]),
        Section("What each test task got", list(_tasks(run))),
        Section("Confused classes", confusion.blocks(run.workdir, run.left_out)),
        Section("Analyses", _analyses(run)),
        Section("How it was run", list(_how(run, command))),
    ]
    if not any(isinstance(block, Picture) for section in sections for block in section.blocks):
        run.left_out.append("Pictures: pip install 'cml_jax[plots]'.")
    if lost := _skipped(run):
        run.left_out.insert(0, lost)
    sections.append(Section("Failed or left out", [Items(run.left_out)] if run.left_out else []))
    kept = [section for section in sections if section.blocks]
    return Document(run.workdir.resolve().name, _lead(results), _numbers(run), kept)


def _lead(results: Results) -> str:
    protocol = results.protocol or {}
    method = results.method
    if results.co_learner not in (None, "", "none"):
        method += f" with co-learner {results.co_learner}"
    if results.weighting not in (None, "uniform"):
        method += f", weighting {results.weighting}"
    names = {"ways": "way", "shots": "shot"}
    shape = [f"{protocol[name]}-{one}" for name, one in names.items() if protocol.get(name)]
    return f"{method} on {' '.join([results.data, *shape])}, seed {results.seed}"


def _numbers(run: _Run) -> list[Number]:
    results, metric = run.results, run.results.metric
    name = LONG_NAMES.get(metric, metric)
    numbers = [Number(f"test {name}", value_of(metric, results.test), _of(run, results.test))]
    for row in beside(results, run.settings, results.test)[:2]:
        unit = "%" if is_share(metric) else ""
        numbers.append(Number("published", f"{row}{unit}", row.source))
    best = value_of(metric, results.validation)
    numbers.append(Number("best validation", best, f"at step {results.validation['step']}"))
    if results.wall_seconds is not None:
        steps = run.rows[-1]["step"] if run.rows else results.validation["step"]
        numbers.append(Number("training", duration(results.wall_seconds), f"{steps} meta-steps"))
    return numbers


def value_of(metric: str, test: Mapping[str, Any]) -> str:
    """The mean of a test and its interval where it has one, in words.

    >>> value_of("accuracy", {"accuracy": 0.9878, "ci95": 0.003}), value_of("mse", {"mse": 0.5})
    ('98.78% ± 0.30%', '0.5000')
    """
    form = ".2%" if is_share(metric) else ".4f"
    numbers = [test[metric], *([test["ci95"]] if "ci95" in test else [])]
    if None in numbers or not np.isfinite(numbers).all():
        return "not finite"
    return " ± ".join(format(number, form) for number in numbers)


def _of(run: _Run, test: Test) -> str:
    """What a test was of: `1000 tasks, 1 inner step, meta-learner`."""
    both = any(not each["transductive"] for each in run.results.test_all)
    words = [f"{test['num_tasks']} tasks"]
    if "num_seeds" in test:
        words = [f"{test['num_seeds']} seeds of {words[0]}"]
    words += [steps_in_words(test["num_steps"]), test["predicts"]]
    if both:
        words.append(_mode(test))
    return ", ".join(filter(None, [*words, str(test.get("run", ""))]))


def _mode(test: Test) -> str:
    return "all queries at once" if test["transductive"] else "each query alone"


def _tests(run: _Run) -> Table:
    results, metric = run.results, run.results.metric
    several = any("run" in test for test in results.test_all)
    modes = len({test["transductive"] for test in results.test_all}) > 1
    rows, sources = [], {}
    for test in results.test_all:
        found = beside(results, run.settings, test)
        sources |= {row.source: None for row in found}
        cells = {
            "predicts": test["predicts"],
            "run": str(test.get("run", "")),
            "inner steps": str(test["num_steps"]),
            "queries": _mode(test),
            LONG_NAMES.get(metric, metric): value_of(metric, test),
            "published": "; ".join(f"{p} ({p.source.partition(',')[0]})" for p in found) or "-",
        }
        rows.append(cells)
    shown = [
        name
        for name in rows[0]
        if {"run": several, "queries": modes, "published": sources}.get(name, True)
    ]
    over = "seeds" if "num_seeds" in results.test else "test tasks"
    caption = f"Every test of the best checkpoint, with 95% intervals over {over}."
    if sources:
        caption += f" Published: {'; '.join(sources)}; their protocols may differ."
    return Table(caption, shown, [[cells[name] for name in shown] for cells in rows])


def _groups(results: Results) -> dict[str, list[int]]:
    """Label to the replicas with one swept value, as `Replicas.groups` has them; {} for one run."""
    groups: dict[str, list[int]] = {}
    for i, replica in enumerate(results.runs or ()):
        swept = [name for name in replica if name not in ("seed", "best_step") and "/" not in name]
        label = f"{swept[0]} {replica[swept[0]]:g}" if swept else ""
        groups.setdefault(label, []).append(i)
    return groups


def _curves(run: _Run) -> list[Block]:
    results = run.results
    blocks: list[Block] = []
    if not run.rows:
        run.left_out.append(f"Curves: there is no {folder.METRICS}.")
        return blocks
    for name, path in run_pictures.curves(run.rows, run.workdir, results, _groups(results) or None):
        shown = LONG_NAMES.get(name, name)
        trained, validated = (_ends(run.rows, f"{s}/{name}") for s in ("train", "validation"))
        alt = f"{_sentence(shown)} against meta-steps; training {trained}, validation {validated}"
        lines = "of each group of replicas the mean, in a band from the lowest to the highest"
        if not results.runs:
            lines = "training is drawn as it was, faint, and smoothed"
        if path.exists():
            blocks.append(Picture(path, alt, f"{_sentence(shown)} against meta-steps; {lines}."))
        else:
            blocks.append(f"{alt}.")
    return blocks


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ends(rows: Sequence[Row], name: str) -> str:
    """`from 1.2 to 0.3`: the mean over replicas of the first and of the last value."""
    values = []
    for row in rows:
        own = [value for key, value in row.items() if f"{key}/".startswith(f"{name}/")]
        finite = [value for value in own if value is not None]
        values += [float(np.mean(finite))] if finite else []
    return f"from {values[0]:.3g} to {values[-1]:.3g}" if values else "not reported"


def _replicas(run: _Run) -> list[Block]:
    """A row for each of several seeds and swept values."""
    results, metric = run.results, run.results.metric
    if not results.runs:
        return []
    tests: list[float] = []
    if run.values:
        same = ("predicts", "num_steps", "transductive")
        for test, values in zip(results.test_all, run.values, strict=True):
            if all(test[name] == results.test[name] for name in same):
                tests += values.mean(1, dtype=np.float64).tolist()
    header, rows = ["replica", *results.runs[0]], []
    for i, replica in enumerate(results.runs):
        cells = [
            value_of(name, replica) if "/" in name else in_words(value)
            for name, value in replica.items()
        ]
        rows.append([str(i), *cells, *([value_of(metric, {metric: tests[i]})] if tests else [])])
    header += [f"test/{metric}"] if tests else []
    return [Table("Each replica: its best validation, and its test as above", header, rows)]


def _episode(run: _Run) -> list[Block]:
    workdir, problem = run.workdir, run.problem
    names: list[str] = []
    path = run_pictures.path_of(workdir, "episode")
    if problem is not None:
        key = _test_key(run.results.seed, 0)
        names = problem.class_names(key, "test") if problem.class_names else []
        path = run_pictures.episode(problem, key, workdir, names)
    else:
        run.left_out.append("Tasks and names of classes: the data were not at hand.")
    if path is None or not path.exists():
        return []
    alt = "Images of the support set above those of the query set, a column for each class"
    alt += f": {', '.join(names)}" if names else ""
    return [Picture(path, alt, "Test task 0, as the network is given it.")]


def _fits(run: _Run, examples) -> list[Block]:
    path = run_pictures.path_of(run.workdir, "fits")
    if examples:
        path = run_pictures.fits(examples, run.workdir)
    elif not path.exists():
        path = run.workdir / folder.FITS
    if not path.exists():
        return []
    alt = "For each of the first test tasks the true curve, the support points and the predictions "
    alt += "before and after adaptation"
    return [Picture(path, alt, "The first test tasks before and after adaptation.")]


def _tasks(run: _Run) -> Iterator[Block]:
    """A histogram, quantiles, and the hardest tasks."""
    if not run.values:
        return
    results, metric = run.results, run.results.metric
    values = run.values[list(results.test_all).index(results.test)]
    flat = values.reshape(-1)
    finite = flat[np.isfinite(flat)].astype(np.float64)
    if not finite.size:
        run.left_out.append("What each test task got: none is finite.")
        return
    shares = (0, 5, 25, 50, 75, 95, 100)
    names = ["lowest", "5%", "25%", "median", "75%", "95%", "highest"]
    quantiles = [value_of(metric, {metric: v}) for v in np.percentile(finite, shares)]
    about = f"{LONG_NAMES.get(metric, metric)} of {_of(run, results.test)}"
    path = run_pictures.histogram(finite, metric, run.workdir)
    if path.exists():
        alt = f"Histogram of {about}: median {quantiles[3]}, from {quantiles[0]} to {quantiles[-1]}"
        yield Picture(path, alt, f"How many test tasks got what: {about}.")
    name = LONG_NAMES.get(metric, metric)
    yield Table("Quantiles over test tasks", ["metric", *names], [[name, *quantiles]])
    yield _hardest(run, values)


def _hardest(run: _Run, values: np.ndarray) -> Table:
    results, metric = run.results, run.results.metric
    larger = METRICS[metric].larger_is_better if metric in METRICS else is_share(metric)
    if run.problem is not None:
        larger = run.problem.larger_is_better
    lost = -np.inf if larger else np.inf
    scores = np.nan_to_num(values.reshape(-1).astype(np.float64), nan=lost)
    order = np.argsort(scores if larger else -scores, kind="stable")[:_HARDEST]
    members = _groups(results).get(str(results.test.get("run", "")), [0])
    runs = results.runs or [{"seed": results.seed}]
    named = run.problem is not None and run.problem.class_names is not None
    rows = []
    for place in order.tolist():
        replica, task = divmod(place, values.shape[1])
        seed = int(runs[members[replica]]["seed"])
        cells = [str(task), str(seed), value_of(metric, {metric: float(values[replica, task])})]
        if named:
            cells.append(", ".join(run.problem.class_names(_test_key(seed, task), "test")))
        rows.append(cells)
    header = ["task", "seed", LONG_NAMES.get(metric, metric), *(["classes"] if named else [])]
    caption = 'The hardest test tasks. Task i has the key task_keys(key(seed), "test", i, 1).'
    return Table(caption, header, rows)


def _analyses(run: _Run) -> list[Block]:
    """What was found over training, and what `experiments.analyze` has found since."""
    over_training = analysis_section.blocks_over_training(run.rows, run.workdir)
    return [*over_training, *analysis_section.blocks(run.workdir, run.left_out)]


def _test_key(seed: int, task: int):
    import jax

    from cml_jax.tasks import task_keys

    return task_keys(jax.random.key(seed), "test", task, 1)[0]


def _how(run: _Run, command: str) -> Iterator[Block]:
    results = run.results
    about = {
        "method": results.method,
        "co-learner": results.co_learner if results.co_learner != "none" else None,
        "weighting": results.weighting,
        "data": results.data,
        **{name.replace("_", " "): value for name, value in (results.protocol or {}).items()},
        "seed": results.seed,
        "split hash": results.split_hash or None,
        "plan": results.plan,
        "versions": ", ".join(f"{k} {v}" for k, v in (results.versions or {}).items()) or None,
    }
    rows = [[name, in_words(value)] for name, value in about.items() if value is not None]
    yield Table("The run", ["what", "value"], rows)
    for name, facts in (("graph", results.graph), ("images", results.images)):
        if facts:
            rows = [[key.replace("_", " "), _fact(value)] for key, value in facts.items()]
            yield Folded(f"The {name}", [Table("", ["what", "value"], rows)])
    changed = {
        name: value
        for name, value in sorted(run.settings.items())
        if value != in_json(KEYS[name].default)
    }
    if changed:
        rows = [[k, in_words(v), in_words(in_json(KEYS[k].default))] for k, v in changed.items()]
        yield Table("Settings that are not the default", ["setting", "value", "default"], rows)
    elif not run.settings:
        run.left_out.append(f"Settings: there is no {folder.CONFIG}.")
    if command:
        yield "The command:"
        yield Code(command)


def in_json(value: Any) -> Any:
    """A setting as config.json has it."""
    return list(value) if isinstance(value, tuple) else value


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_fact(inner)}" for key, inner in value.items())
    return in_words(value)


def _skipped(run: _Run) -> str:
    """Steps that were skipped because they were not finite."""
    total = sum(
        value or 0
        for row in run.rows
        for name, value in row.items()
        if name == "skipped" or name.startswith("skipped/")
    )
    return f"Training skipped {total:g} steps that were not finite." if total else ""
