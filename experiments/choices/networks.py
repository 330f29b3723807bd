"""Networks by name, and their co-learners. A new one is a file in `cml_jax.models` and a row."""

from typing import NamedTuple

from experiments.choices.key import Key


class Function(NamedTuple):
    """A function of the library, and arguments that a row fixes.

    `experiments.build.resolve.call` gives it the settings that it has parameters for.
    """

    path: str  # "module:function"
    fixed: dict = {}


class Network(NamedTuple):
    """What the program knows of a network.

    Attributes:
      model: Makes the `Model` from `ways` (or `outputs`), the graph where it has one, and `keys`.
      reads: What a data set must give: "images", "points" or "nodes".
      keys: The settings `model.NAME` that it reads, by the names of the function's parameters.
      co_learners: The co-learners that fit it, by name. Their functions get the network's settings
        too, and `width`, the last of `hidden`.
      batch_statistics: Whether a prediction depends on the other examples of its batch.
      small: Whether a task is too little work to be spread over the cores of a CPU.
      needs: What tasks on nodes must bring beside node ids: "", "subgraphs" or "attribute_sets".
      method: "module:function" that takes the place of the method's own; "" does not.
      methods: The methods that it works with; empty is all.
      embedding: Makes the network without its last layer, whose outputs linear probing reads; None:
        it reads the features, flattened.
      noise: The setting of `keys` above 0 of which it draws noise in the inner loop of training,
        from keys that the support's images are given; "" none. (Nodes always have keys.)
    """

    model: Function
    reads: str
    keys: dict[str, Key]
    co_learners: dict[str, Function]
    batch_statistics: bool = False
    small: bool = False
    needs: str = ""
    method: str = ""
    methods: tuple[str, ...] = ()
    embedding: Function | None = None
    noise: str = ""


class CoLearner(NamedTuple):
    """A co-learner's own settings, by their whole names."""

    keys: dict[str, Key] = {}


_CML = {
    "co_learner_scale": Key(1.0, (0.0, 1e3), "gamma, the weight of the co-learner's loss"),
    "co_learner_frozen": Key(False, None, "it keeps its random start: MAML + random noise"),
    "co_learner_number": Key(
        1, (1, 64), "how many there are, each with a start of its own; the mean of their losses"
    ),
    "co_learner_support": Key(False, None, "it reads the adapted support set, too"),
    "co_learner_rate": Key(1.0, (0.0, 1e3), "its outer rate, in units of outer_learning_rate"),
    "eval.best_of": Key(
        "meta_learner",
        ("meta_learner", "both"),
        "whose validation chooses the checkpoint; both: the mean with the co-learner's",
    ),
}
_DEPTH = {"co_learner_depth": Key(2, (0, 4), "convolutions of co_learner=conv")}
CO_LEARNERS = {
    "none": CoLearner(),
    "": CoLearner(),
    "linear": CoLearner(_CML),
    "conv": CoLearner(_CML | _DEPTH),
    "mlp": CoLearner(_CML),
}

_HIDDEN = (1, 1_000_000)
_WIDTH = {"hidden": Key((40, 40), _HIDDEN, "widths of the hidden layers (graphs: one)", length=1)}
_DROPOUT = {
    "dropout": Key(0.5, (0.0, 0.99), "share of units dropped in the inner loop of training")
}
_SUBGRAPHS = {
    "subgraph_nodes": Key(64, (1, 1_000_000), "rows of a node's subgraph at most"),
    "subgraph_neighbours": Key(32, (1, 1_000_000), "neighbours that a row adds up at most"),
}
_CONV_CO_LEARNER = "cml_jax.models:conv_co_learner"
_NODE_CO_LEARNERS = {
    "linear": Function("cml_jax.models:linear_co_learner"),
    "mlp": Function("cml_jax.models:node_co_learner"),
}

NETWORKS = {
    "conv4": Network(
        Function("cml_jax.models:conv4"),
        reads="images",
        keys={
            "filters": Key(64, (1, 65_536), "channels of each convolution"),
            "extra_blocks": Key(0, (0, 100), "convolutions after the four; 3: More-MAML"),
            "pool": Key(True, None, "max-pool; False: convolutions of stride 2"),
        },
        co_learners={
            "linear": Function(_CONV_CO_LEARNER, {"depth": 0}),
            "conv": Function(_CONV_CO_LEARNER),
        },
        batch_statistics=True,
        embedding=Function("cml_jax.models:conv4", {"ways": 0}),
    ),
    "resnet12": Network(
        Function("cml_jax.models:resnet12"),
        reads="images",
        keys={
            "widths": Key((64, 128, 256, 512), (1, 65_536), "channels of the four blocks", 4),
            "average_pool": Key(True, None, "the head reads the map's mean; False: all of it"),
            "drop_rate": Key(
                0.0, (0.0, 0.99), "share dropped in the inner loop of training: DropBlock; 0: off"
            ),
            "dropblock_size": Key(5, (1, 1_000), "height and width of what DropBlock drops"),
        },
        co_learners={
            "linear": Function("cml_jax.models:resnet12_co_learner", {"depth": 0}),
            "conv": Function("cml_jax.models:resnet12_co_learner"),
        },
        batch_statistics=True,
        embedding=Function("cml_jax.models:resnet12", {"ways": 0}),
        noise="drop_rate",
    ),
    "mlp": Network(
        Function("cml_jax.models:mlp"),
        reads="points",
        keys={
            "hidden": Key((40, 40), _HIDDEN, "widths of the hidden layers (graphs: one)"),
            "activation": Key(
                "relu", {"relu": "jax.nn:relu", "tanh": "jax.numpy:tanh"}, "nonlinearity"
            ),
        },
        co_learners={
            "linear": Function("cml_jax.models:linear_co_learner"),
            "mlp": Function("cml_jax.models:mlp_co_learner"),
        },
        small=True,
    ),
    "gcn": Network(
        Function("cml_jax.models:gcn"),
        reads="nodes",
        keys=_WIDTH | _DROPOUT,
        co_learners=_NODE_CO_LEARNERS,
    ),
    "sgc": Network(
        Function("cml_jax.models:sgc"), reads="nodes", keys=_WIDTH, co_learners=_NODE_CO_LEARNERS
    ),
    "gmeta": Network(
        Function("cml_jax.models:gmeta"),
        reads="nodes",
        keys=_WIDTH | _DROPOUT | _SUBGRAPHS,
        co_learners=_NODE_CO_LEARNERS,
        needs="subgraphs",
    ),
    "amm_gnn": Network(
        Function("cml_jax.models:gcn"),
        reads="nodes",
        keys=_WIDTH | _DROPOUT,
        co_learners=_NODE_CO_LEARNERS,
        needs="attribute_sets",
        method="cml_jax.methods.amm_gnn:amm_gnn",
        methods=("maml", "fomaml"),
    ),
}
