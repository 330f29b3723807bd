"""The pages of studies, from what is stored of their runs."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from experiments.report import cells, gains, pages, plots, table
from experiments.report.front_table import front_table
from experiments.run_folder import folder
from experiments.studies.front import FRONT, PAIRED
from experiments.studies.study import Study, cells_of, file_name

_FITS = 3  # rows whose first test tasks are shown


def write_pages(docs: Path, studies: Mapping[str, Study]) -> None:
    """Fills the page of every study that has one and a run that has ended; then the page that leads
    to them.

    Args:
      docs: The folder of results.md and of results/.
      studies: Name to study.
    """
    written = {}
    for name, study in studies.items():
        path = docs / "results" / f"{name}.md"
        if path.exists() and _stored(name, study, docs / "results"):
            page = path.read_text(encoding="utf-8")
            parts = page_parts(name, study, docs / "results", pages.words(page).title)
            written[name] = pages.fill(page, parts)
            path.write_text(written[name], encoding="utf-8")
    path = docs / "results.md"
    page = path.read_text(encoding="utf-8")
    parts = {"studies": pages.front(written)}
    if "<!-- generated: front -->" in page:
        parts["front"] = front_table(FRONT, docs / "results")
    if "<!-- generated: gains -->" in page:
        found = gains.gains(studies, PAIRED, docs / "results")
        gains.forest(found, docs / "results" / "gains.png")
        parts["gains"] = f"{gains.table_of(found)}\n\n![{gains.TITLE}](results/gains.png)"
    path.write_text(pages.fill(page, parts), encoding="utf-8")


def draw(name: str, study: Study, results: Path) -> None:
    """Draws the pictures of a study, and makes its page where there is none.

    Args:
      name: Name of the study.
      study: Its runs.
      results: The folder of NAME.json, of the page and of the pictures.
    """
    stored = _stored(name, study, results)
    page, picture = results / f"{name}.md", results / f"{name}.png"
    if not page.exists():
        page.write_text(pages.NEW_PAGE.format(name=name), encoding="utf-8")
    title = pages.words(page.read_text(encoding="utf-8")).title
    for label in list(study.runs)[:_FITS]:
        fits = next(c.workdir for c in cells_of(name, study) if c.label == label) / folder.FITS
        if fits.exists():
            shutil.copy(fits, results / f"{name}-{file_name(label)}.png")
    if study.curve:
        curves = {label: cells.curve_of(entry, study.curve) for label, entry in stored.items()}
        if curves := {label: rows for label, rows in curves.items() if rows}:
            plots.compare(curves, picture, title, study.curve)
        return  # of what was stored without its curve, the picture stays as it is
    runs = {label: cells.results_of(entry) for label, entry in stored.items()}
    found = table.cells_of(runs, study.by_steps)
    if study.base:  # too many rows for a picture: CML-dagger is in the table
        found = {row: cell for row, cell in found.items() if "CML-dagger" not in row}
    plots.points(found, picture, title, table.metric_of(runs))


def page_parts(name: str, study: Study, results: Path, title: str) -> dict[str, str]:
    """The generated parts of a study's page.

    Args:
      name: Name of the study.
      study: Its runs.
      results: The folder of NAME.json and of the pictures.
      title: Title of the page.
    """
    stored = _stored(name, study, results)
    runs = {label: cells.results_of(entry) for label, entry in stored.items()}
    if study.base or not study.curve:
        numbers = table.of_methods(runs, study.base, study.beside, study.by_steps)
    else:
        numbers = table.of_tests(runs)
    first = next(iter(runs.values()))
    tasks = f"{first.test['num_tasks']} test tasks"
    if seeds := first.test.get("num_seeds"):
        tasks += f" for each of {seeds} seeds, intervals over seeds"
    missing = [label for label in (*study.runs, *study.probes) if label not in stored]
    more = f", and {len(missing) - 6} more" if len(missing) > 6 else ""
    left = f"\n\nNot run yet: {'; '.join(missing[:6])}{more}." if missing else ""
    pictures = [f"![{title}]({name}.png)"]
    for label in stored:
        file = f"{name}-{file_name(label)}.png"
        if (results / file).exists():
            pictures.append(f"{label}: the first test tasks\n\n![{label}]({file})")
    commands = {label: entry["command"] for label, entry in stored.items()}
    far = {label: cells.how_far(entry) for label, entry in stored.items()}
    tuned = table.of_tuning({label: entry.get("tuned", {}) for label, entry in stored.items()})
    return {
        "table": f"{numbers}\n\n{tasks}, {first.plan}.{left}",
        "pictures": "\n\n".join(pictures),
        "commands": "\n\n".join(filter(None, [table.of_commands(runs, commands, far), tuned])),
    }


def _stored(name, study, results):
    """What has ended, in the study's order."""
    stored = cells.load_ended(results / f"{name}.json")
    return {label: stored[label] for label in (*study.runs, *study.probes) if label in stored}
