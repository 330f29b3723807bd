"""What is learned: model, tasks, loss and metric, from a config or from the caller."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from cml_jax.tasks.members import Drawn, Members
from cml_jax.types import Batch, Loss, Method, Metric, Model, Noisy, Task
from experiments.build import nodes, tasks
from experiments.build.resolve import call, resolve
from experiments.choices.data_sets import DATA_SETS
from experiments.choices.networks import NETWORKS, Function, Network
from experiments.choices.outer import LOSSES, METRICS

Sample = Callable[[jax.Array, Any], Task]
_NOISE = 0x6E6F6973  # folded into a task's key: no sampler folds such a number in


class Problem(NamedTuple):
    """What a run learns.

        problem = Problem(model=my_model, train_sample=draw, loss=cross_entropy, metric=accuracy)
        results = experiments.run(config, "runs/mine", problem)

    Attributes:
      model: The network, or a function from data[split] to it where the network needs data such
        as a graph. In compiled programs these data are an argument.
      train_sample: `(key, data["train"]) -> Task`, a pure function, under jit and vmap.
      loss: `(outputs, targets) -> scalar` of both loops.
      metric: `(outputs, targets) -> scalar` that validation and test report.
      test_sample: `(key, data[split]) -> Task` of validation and test; None is train_sample.
      data: A split ("train", "validation", "test") to arrays (any pytree); None where tasks are
        made from keys alone.
      co_learner: CML's second head, or None.
      metric_name: What the metric is called in reports.
      larger_is_better: Whether a larger value of the metric is better.
      batch_statistics: Whether a prediction depends on the other examples of its batch: then the
        test is done with all queries at once and with each query alone.
      small: Whether a task is too little work to be spread over the cores of a CPU.
      name: Name of the data, for reports.
      split_hash: Identifies the data and their split; a run does not resume with another one.
      ways: Classes in a task; 0 where there are none.
      examples: How many examples a support set at test has; Reptile's minibatches are drawn from
        them. 0 is unknown.
      facts: What results.json says of the data, under "graph" or "images"; {} is nothing.
      description: What is said of the data when a run starts.
      class_names: `(key, split) -> names`, of the classes of the task that the key draws, where
        classes are the same in several tasks; or None. Outputs are then `[n, ways]`.
      draw: `(key, members, split) -> Drawn`, which images of an `ImagePool` the key's task has, if
        the samplers also read `Gathered`: then images may be gathered on the host. Or None.
      curve: `(key, x [n, 1]) -> y [n, 1]`, the true curve of a regression task, for pictures.
      inputs: From data[split] to a wrapper of methods that changes their inputs, or None.
      method: "module:function" that takes the place of the method's own; "" does not.
      train_classes: Where training is ordinary classification, for `method=linear_probing`, the
        number of its classes, which are the outputs of `model`. 0: training tasks have `ways`.
      embedding: The network without its last layer, whose outputs linear probing reads; None: it
        reads the features.
    """

    model: Model | Callable[[Any], Model]
    train_sample: Sample
    loss: Loss
    metric: Metric
    test_sample: Sample | None = None
    data: Mapping[str, Any] = {"train": None, "validation": None, "test": None}
    co_learner: Model | None = None
    metric_name: str = "accuracy"
    larger_is_better: bool = True
    batch_statistics: bool = False
    small: bool = False
    name: str = "own"
    split_hash: str = ""
    ways: int = 0
    examples: int = 0
    facts: Mapping[str, Any] = {}
    description: str = ""
    class_names: Callable[[jax.Array, str], list[str]] | None = None
    draw: Callable[[jax.Array, Members, str], Drawn] | None = None
    curve: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    inputs: Callable[[Any], Callable[[Method], Method]] | None = None
    method: str = ""
    train_classes: int = 0
    embedding: Model | None = None

    def model_on(self, data: Any) -> Model:
        """The network on these data, which may be traced."""
        return self.model if isinstance(self.model, Model) else self.model(data)

    def draw_test(self, key: jax.Array, data: Any) -> Task:
        """A task of validation or test."""
        return (self.test_sample or self.train_sample)(key, data)


def problem(settings: Mapping[str, Any]) -> Problem:
    """Loads the data and builds the networks.

    Args:
      settings: Values by dotted names, checked.

    Raises:
      ValueError: The data cannot give such tasks.
    """
    row, network = DATA_SETS[settings["data.name"]], NETWORKS[settings["model.name"]]
    source = getattr(tasks, row.tasks)(row, settings, network.needs)
    ways = settings["data.ways"] if row.targets == "classes" else 0
    metric_name = row.metric if settings["metric"] == "auto" else settings["metric"]
    loss = row.loss if settings["loss"] == "auto" else settings["loss"]
    metric = METRICS[metric_name]
    noisy = network.noise and settings[f"model.{network.noise}"] > 0
    model, co_learner, embedding = _networks(network, settings, source.train_classes or ways or 1)
    # Noise is for what is trained: the inner loop, or ordinary classification.
    noisy_part = "query" if source.train_classes else "support"
    made = Problem(
        model=model,
        train_sample=_with_keys(source.train_sample, noisy_part) if noisy else source.train_sample,
        test_sample=source.test_sample,
        loss=resolve(LOSSES[loss].function),
        metric=resolve(metric.function),
        data=source.data,
        co_learner=co_learner,
        metric_name=metric_name,
        larger_is_better=metric.larger_is_better,
        batch_statistics=network.batch_statistics,
        small=network.small,
        name=settings["data.name"],
        split_hash=source.split_hash,
        ways=ways,
        examples=settings["data.shots"] * (ways or 1),
        facts=source.facts,
        description=source.description,
        class_names=source.class_names,
        draw=source.draw,
        curve=source.curve,
        inputs=nodes.on_subgraphs if network.needs == "subgraphs" else None,
        method=network.method,
        train_classes=source.train_classes,
        embedding=embedding,
    )
    check_tasks(made)
    return made


def own(problem: Problem) -> Problem:
    """The caller's problem, checked; without a `split_hash` it gets a digest of its data.

    Raises:
      ValueError: A split is missing, or the data cannot give tasks.
    """
    if missing := {"train", "validation", "test"} - problem.data.keys():
        raise ValueError(f"problem.data has no {min(missing)!r}: give all three splits")
    check_tasks(problem)
    leaves = jax.tree.leaves(dict(problem.data))
    if problem.split_hash or not leaves:
        return problem
    return problem._replace(split_hash=nodes.digest(None, leaves))


def check_tasks(problem: Problem) -> None:
    """Draws a task of each split and makes the network of it, as shapes alone.

    So mistakes show before anything compiles, such as images too small for the network.
    """
    for split, data in problem.data.items():
        draw = problem.train_sample if split == "train" else problem.draw_test
        jax.eval_shape(draw, jax.random.key(0), data)

    def network(data):
        inputs = problem.draw_test(jax.random.key(0), data).support.inputs
        return problem.model_on(data).init(jax.random.key(0), inputs)

    # Else the network reads what a wrapper or a method of its own makes of a task.
    if problem.inputs is None and not problem.method:
        jax.eval_shape(network, problem.data["test"])


def _with_keys(sample: Sample, part: str) -> Sample:
    """Tasks whose support (or query) inputs have a key each, for noise; otherwise the same."""

    def noisy(key, data):
        task = sample(key, data)
        inputs, targets = getattr(task, part)
        keys = jax.random.split(jax.random.fold_in(key, _NOISE), len(targets))
        return task._replace(**{part: Batch(Noisy(inputs, keys), targets)})

    return noisy


def _networks(row: Network, settings: Mapping[str, Any], outputs: int):
    """The model (or the function from data to it); the co-learner and the embedding, or None."""
    own = {}
    for name, key in row.keys.items():
        value = settings[f"model.{name}"]
        if isinstance(key.allowed, dict):
            value = resolve(key.allowed[value])
        own[name] = value[0] if key.length == 1 else value
    own |= {"ways": outputs, "outputs": outputs}
    if row.reads == "nodes":

        def model(data):
            return _made(row.model, own | {"graph": data.graph})

    else:
        model = _made(row.model, own)
    embedding = row.embedding and _made(row.embedding, own)
    name = settings["co_learner"]
    if name in ("", "none"):
        return model, None, embedding
    hidden = own.get("hidden")
    width = hidden[-1] if isinstance(hidden, tuple) else hidden
    beside = {"width": width, "depth": settings["co_learner_depth"]}
    return model, _made(row.co_learners[name], own | beside), embedding


def _made(function: Function, available: dict[str, Any]) -> Model:
    return call(resolve(function.path), available | function.fixed)
