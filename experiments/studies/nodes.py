"""CML and gradient agreement on the nodes of two graphs, on three networks."""

import itertools

from experiments.studies.study import Study

_GRAPHS = {"CiteSeer": "citeseer", "Amazon-Computer": "amazon_computer"}
_SHOTS = (1, 5)
_COLUMNS = [f"{graph} {shots}-shot" for graph in _GRAPHS for shots in _SHOTS]
# The runs are older than the scaling of features; CiteSeer's are not scaled.
_FEATURES = {"amazon_computer": ("data.features=stored",)}
_NETWORKS = {
    "GCN": ("model.name=gcn",),
    "G-Meta": ("model.name=gmeta",),
    "AMM-GNN": ("model.name=amm_gnn",),
}
_FOUR = ("tasks_per_step=4", "train_steps=250")
_AGREEMENT = (*_FOUR, "weighting=gradient_agreement")
_VARIANTS = {
    "": (),
    " + CML": ("co_learner=mlp",),
    ", 4 tasks a step": _FOUR,
    " + agreement, 4 tasks a step": _AGREEMENT,
    " + CML + agreement, 4 tasks a step": (*_AGREEMENT, "co_learner=mlp"),
}
_PUBLISHED = {
    "published: G-Meta": ("55.15", "64.53", "70.57", "85.96"),
    "published: G-Meta + CML": ("61.17", "76.07", "72.26", "87.10"),
    "published: AMM-GNN": ("54.53", "62.93", "74.29", "80.10"),
    "published: AMM-GNN + CML": ("61.13", "66.88", "78.91", "86.68"),
}


def _runs() -> dict[str, tuple[str, ...]]:
    runs = {}
    for network, variant in itertools.product(_NETWORKS, _VARIANTS):
        for (graph, name), shots in itertools.product(_GRAPHS.items(), _SHOTS):
            settings = [f"data.name={name}", f"data.shots={shots}"]
            settings += [*_NETWORKS[network], *_VARIANTS[variant]]
            if network == "G-Meta" or name == "amazon_computer":
                settings.append("inner_learning_rate=0.05")
            settings += _FEATURES.get(name, ())
            if network == "G-Meta" and name == "citeseer":  # most neighbourhoods are smaller
                settings += ["model.subgraph_nodes=32", "model.subgraph_neighbours=16"]
            runs[f"{graph} {shots}-shot: {network}{variant}"] = tuple(settings)
    return runs


NODES = Study(
    config="configs/nodes.py",
    runs=_runs(),
    beside={label: dict(zip(_COLUMNS, row, strict=True)) for label, row in _PUBLISHED.items()},
    repeats=tuple((f"seed={i}", f"data.split_seed={i}") for i in range(5)),
    base={
        f"{network}{variant}": network + (", 4 tasks a step" if "4" in variant else "")
        for network, variant in itertools.product(_NETWORKS, _VARIANTS)
        if "+" in variant
    },
    probes={
        f"{graph} {shots}-shot: linear probing": (
            f"data.name={name}",
            f"data.shots={shots}",
            *_FEATURES.get(name, ()),
        )
        for (graph, name), shots in itertools.product(_GRAPHS.items(), _SHOTS)
    },
)

# The published numbers are of one cut of the classes, drawn for each method anew.
SPLITS = Study(
    config="configs/nodes.py",
    runs={
        f"{shots}-shot: {network}": (
            "data.name=amazon_computer",
            f"data.shots={shots}",
            *_NETWORKS[network],
            "inner_learning_rate=0.05",
            "data.features=stored",
        )
        for shots in _SHOTS
        for network in ("G-Meta", "GCN")
    },
    beside={"published: G-Meta": {"1-shot": "70.57", "5-shot": "85.96"}},
    repeats=tuple((f"seed={i}", f"data.split_seed={i}") for i in range(20)),
    base={"G-Meta": "GCN"},
)
