"""Published numbers, beside which a run's own may stand. Their protocols may differ from the run's.

Only what the papers state is here. Half-widths are those printed; None where none is.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from experiments.run_folder.results import Results, Test, is_share


class Published(NamedTuple):
    """A number of a paper.

    Attributes:
      source: Where it is printed.
      value, half: The number and its half-width or None; accuracies in percent.
      data: Name of the data set.
      ways: Classes in a task; None for regression.
      shots: Support examples of each class.
      method: Name of the method.
      network: Name of the network.
      co_learner: Whether CML's co-learner was trained beside it.
      predicts: Who predicts, "meta-learner" or "co-learner" (CML-dagger).
      weighting: How tasks are weighted.
      num_steps: Inner steps at test, or None where they are the method's usual ones.
      transductive: Whether all queries were predicted at once; None where it is not said.
    """

    source: str
    value: float
    half: float | None
    data: str
    ways: int | None
    shots: int
    method: str = "maml"
    network: str = "conv4"
    co_learner: bool = False
    predicts: str = "meta-learner"
    weighting: str = "uniform"
    num_steps: int | None = None
    transductive: bool | None = None

    def __str__(self) -> str:
        """`98.7 ± 0.4`."""
        return f"{self.value:g}" if self.half is None else f"{self.value:g} ± {self.half:g}"


def beside(results: Results, settings: Mapping[str, Any], test: Test) -> list[Published]:
    """The published numbers of what a test has measured.

    Args:
      results: The results of a run.
      settings: Its settings by dotted names; without them nothing is found.
      test: One of `results.test_all`.
    """
    protocol = results.protocol or {}
    shown = "accuracy" if is_share(results.metric) else results.metric
    cml = results.co_learner not in (None, "", "none")
    wanted = {
        "data": results.data,
        "ways": protocol.get("ways"),
        "shots": protocol.get("shots"),
        "method": results.method,
        "network": settings.get("model.name"),
        "co_learner": cml,
        "predicts": test["predicts"].partition(" ")[0],
        "weighting": results.weighting,
        "num_steps": test["num_steps"],
        "transductive": test["transductive"],
    }
    # Random noise, or a co-learner that the paper does not have.
    own = settings.get("co_learner_number", 1) > 1 or settings.get("co_learner_support")
    if cml and (own or settings.get("co_learner_frozen")):
        return []
    return [
        row
        for row in PUBLISHED
        if shown == ("mse" if row.ways is None else "accuracy")
        and all(
            getattr(row, name) in (value, *_ANY.get(name, ())) for name, value in wanted.items()
        )
    ]


_ANY = {"num_steps": (None,), "transductive": (None,)}
_MAML = "MAML, arXiv 1703.03400"
_REPTILE = "Reptile, arXiv 1803.02999"
_GA = "gradient agreement, arXiv 1810.08178"
_CML, _BASE = "CML, arXiv 2406.04639", "baseline in CML, arXiv 2406.04639"
_CELLS = {"omniglot": [(5, 1), (5, 5), (20, 1), (20, 5)]}
_NODES = {"citeseer": 2, "amazon_computer": 2, "cora_full": 5}


def _row(source: str, data: str, cells: str, **about: Any) -> Iterator[Published]:
    """A row of a printed table; a cell is `value`, `value±half`, or `-`."""
    shapes = _CELLS.get(data, [(_NODES.get(data, 5), 1), (_NODES.get(data, 5), 5)])
    for (ways, shots), cell in zip(shapes, cells.split(), strict=True):
        if cell != "-":
            value, _, half = cell.partition("±")
            yield Published(
                source, float(value), float(half) if half else None, data, ways, shots, **about
            )


def _cml_table() -> Iterator[Published]:
    """The tables of the CML paper: a method, the method + CML, and CML-dagger."""
    mini = {
        "maml": ("47.44±0.23 61.75±0.42", "49.32±0.37 65.84±0.46", "50.35±0.15 66.43±0.43"),
        "maml_plus_plus": (
            "52.15±0.26 68.32±0.44",
            "52.46±0.05 70.08±0.61",
            "52.86±0.17 70.69±0.49",
        ),
        "boil": ("49.61±0.16 66.45±0.37", "50.04±0.30 66.91±0.13", "50.83±0.25 67.50±0.48"),
        "sharp_maml": ("49.06±0.52 65.63±0.54", "49.56±0.45 66.90±0.20", "49.70±0.62 67.06±0.16"),
    }
    for method, (alone, cml, dagger) in mini.items():
        yield from _row(_BASE, "mini_imagenet", alone, method=method)
        yield from _row(_CML, "mini_imagenet", cml, method=method, co_learner=True)
        yield from _row(
            _CML, "mini_imagenet", dagger, method=method, co_learner=True, predicts="co-learner"
        )
    images = {
        ("cifar_fs", "conv4"): ("56.55 70.10", "57.67 73.87"),
        ("fc100", "conv4"): ("36.07 48.03", "36.90 51.06"),
        ("vgg_flower", "conv4"): ("63.17 74.48", "64.31 77.03"),
        ("cifar_fs", "resnet12"): ("61.86 73.32", "62.11 78.31"),
        ("fc100", "resnet12"): ("36.61 47.48", "37.56 51.51"),
        ("vgg_flower", "resnet12"): ("63.43 75.42", "66.07 81.15"),
    }
    nodes = {
        ("citeseer", "gmeta"): ("55.15 64.53", "61.17 76.07"),
        ("amazon_computer", "gmeta"): ("70.57 85.96", "72.26 87.10"),
        ("cora_full", "gmeta"): ("60.44 75.84", "60.49 76.02"),
        ("citeseer", "amm_gnn"): ("54.53 62.93", "61.13 66.88"),
        ("amazon_computer", "amm_gnn"): ("74.29 80.10", "78.91 86.68"),
        ("cora_full", "amm_gnn"): ("58.77 75.61", "63.27 76.19"),
    }
    for table, method in ((images, "maml"), (nodes, "fomaml")):
        for (data, network), (alone, cml) in table.items():
            about = {"network": network, "method": method}
            yield from _row(_BASE, data, alone, **about)
            yield from _row(_CML, data, cml, co_learner=True, **about)


def _sinusoid() -> Iterator[Published]:
    for steps, value in ((1, 0.67), (5, 0.38), (10, 0.35)):
        yield Published(_MAML, value, None, "sinusoid", None, 5, network="mlp", num_steps=steps)
    for weighting, value in (("uniform", 0.13), ("gradient_agreement", 0.08)):
        about = {"method": "reptile", "network": "mlp", "weighting": weighting, "num_steps": 5}
        yield Published(f"{_GA} (an L2 error)", value, None, "sinusoid", None, 10, **about)


PUBLISHED: tuple[Published, ...] = (
    *_sinusoid(),
    *_row(_MAML, "omniglot", "98.7±0.4 99.9±0.1 95.8±0.3 98.9±0.2"),
    *_row(
        _REPTILE,
        "omniglot",
        "95.39±0.09 98.90±0.10 88.14±0.15 96.65±0.33",
        method="reptile",
        transductive=False,
    ),
    *_row(
        _REPTILE,
        "omniglot",
        "97.68±0.04 99.48±0.06 89.43±0.14 97.12±0.32",
        method="reptile",
        transductive=True,
    ),
    *_row(
        _REPTILE,
        "omniglot",
        "98.3±0.5 99.2±0.2 89.4±0.5 97.9±0.1",
        method="fomaml",
        transductive=True,
    ),
    *_row("ANIL, arXiv 1909.09157", "omniglot", "- - 96.2±0.5 98.0±0.3", method="anil"),
    *_row(
        _GA,
        "omniglot",
        "98.6±0.63 99.8±0.12 94.25±0.51 98.99±1.34",
        method="reptile",
        weighting="gradient_agreement",
    ),
    *_row(_BASE, "omniglot", "91.78 96.59 - -"),
    *_row(_CML, "omniglot", "93.99 97.15 - -", co_learner=True),
    *_row(_MAML, "mini_imagenet", "48.70±1.84 63.11±0.92"),
    *_row(
        _REPTILE,
        "mini_imagenet",
        "49.97±0.32 65.99±0.58",
        method="reptile",
        transductive=True,
    ),
    *_row(
        _GA,
        "mini_imagenet",
        "54.80±1.19 73.27±0.62",
        method="reptile",
        weighting="gradient_agreement",
    ),
    *_cml_table(),
)
