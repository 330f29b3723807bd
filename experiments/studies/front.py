"""What the front table of docs/results.md shows: ours beside what is published."""

from typing import NamedTuple


class Shown(NamedTuple):
    """A cell of the front table.

    Attributes:
      row, column: Where it stands.
      study: Name of the study.
      label: Label of its run.
      published: The published value and its half-width, or 0, in the unit of the metric; None where
        nothing is published.
      num_steps: The inner steps of the test; 0 is the headline's.
    """

    row: str
    column: str
    study: str
    label: str
    published: tuple[float, float] | None = None
    num_steps: int = 0


_SINE, _REPTILE_SINE = "sinusoid, 5-shot, 1 step", "sinusoid, 10-shot, 5 steps"
_OMNIGLOT = "Omniglot 5-way 1-shot"
_CIFAR, _FC100 = "CIFAR-FS 5-way {}, 5,000 steps", "FC100 5-way {}, 3,000 steps"

FRONT = [
    Shown("MAML", _SINE, "sinusoid", "MAML", (0.67, 0)),
    Shown("MAML + CML", _SINE, "sinusoid", "MAML + CML"),
    Shown("MAML + agreement", _SINE, "sinusoid", "MAML + agreement"),
    Shown("Reptile", _REPTILE_SINE, "sinusoid_agreement", "Reptile", (0.13, 0)),
    Shown(
        "Reptile + agreement", _REPTILE_SINE, "sinusoid_agreement", "Reptile + agreement", (0.08, 0)
    ),
    Shown("MAML", _OMNIGLOT, "omniglot", "MAML", (0.987, 0.004), 3),
    Shown("MAML + CML", _OMNIGLOT, "omniglot", "MAML + CML", (0.9399, 0), 1),
    Shown("MAML + agreement", _OMNIGLOT, "omniglot", "MAML + agreement", (0.986, 0.0063), 3),
    *(
        Shown(row, column.format(shots), study, f"{shots}: {row}", (published, 0))
        for column, study, row, *both in (
            (_CIFAR, "cifar_fs", "MAML", 0.5655, 0.7010),
            (_CIFAR, "cifar_fs", "MAML + CML", 0.5767, 0.7387),
            (_FC100, "fc100", "MAML", 0.3607, 0.4803),
            (_FC100, "fc100", "MAML + CML", 0.3690, 0.5106),
        )
        for shots, published in zip(("1-shot", "5-shot"), both, strict=True)
    ),
    *(
        Shown("linear probing", _CIFAR.format(shots), "cifar_fs", f"{shots}: linear probing")
        for shots in ("1-shot", "5-shot")
    ),
    *(
        Shown(f"{network}{cml}", f"{graph}, 2-way 1-shot", "nodes", f"{label}: {network}{cml}", to)
        for network, cml, graph, label, to in (
            ("G-Meta", "", "CiteSeer", "CiteSeer 1-shot", (0.5515, 0)),
            ("G-Meta", " + CML", "CiteSeer", "CiteSeer 1-shot", (0.6117, 0)),
            ("AMM-GNN", "", "CiteSeer", "CiteSeer 1-shot", (0.5453, 0)),
            ("AMM-GNN", " + CML", "CiteSeer", "CiteSeer 1-shot", (0.6113, 0)),
            ("G-Meta", "", "Amazon-Computer", "Amazon-Computer 1-shot", (0.7057, 0)),
            ("G-Meta", " + CML", "Amazon-Computer", "Amazon-Computer 1-shot", (0.7226, 0)),
            ("AMM-GNN", "", "Amazon-Computer", "Amazon-Computer 1-shot", (0.7429, 0)),
            ("AMM-GNN", " + CML", "Amazon-Computer", "Amazon-Computer 1-shot", (0.7891, 0)),
        )
    ),
]

# The studies whose paired differences docs/results.md draws, and what their rows begin with there.
PAIRED = {
    "sinusoid": "sinusoid, 5 points",
    "sinusoid_agreement": "sinusoid, 10 points",
    "omniglot_methods": "Omniglot 5-way",
    "omniglot_20way": "Omniglot 20-way",
    "cifar_fs_seeds": "CIFAR-FS",
    "cifar_fs": "CIFAR-FS, one seed",
    "fc100": "FC100",
    "nodes": "",
}
