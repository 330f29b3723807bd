"""From a config to the pure functions and arrays of a run."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import cml_jax
from cml_jax import models, tasks
from cml_jax.types import Loss, Method, Metric, Model, Task
from experiments.build import graphs
from experiments.build.replicas import side_by_side
from experiments.settings.config import DECAYING, GRAPHS, SPLITS


class Problem(NamedTuple):
    """What a run trains on.

    Attributes:
      train_sample, test_sample: `(key, data[split]) -> Task`; the second is validation's too.
      data: split ("train", "validation", "test") to arrays, or to None where tasks are procedural.
      split_hash: of the class lists, and of the graph; "" where tasks are procedural.
      curve: `(key, x [n, 1]) -> y [n, 1]`, the truth behind a regression task, or None.
      network: from data[split] to the model, which may stand on it, as on a graph. Inside of what
        is jitted the data are an argument: see `with_data`.
      model_data: the data of `model`.
      model, co_learner, loss: the networks (co_learner may be None) and the loss of both loops.
      metric_name, metric: "accuracy" or "mse".
      larger_is_better: of the metric.
      batch_statistics: whether a prediction depends on the other examples of its batch.
      graph: what is to be said of the graph, `graphs.facts`, or None.
    """

    train_sample: Callable[[jax.Array, Any], Task]
    test_sample: Callable[[jax.Array, Any], Task]
    data: dict[str, Any]
    split_hash: str
    curve: Callable[[jax.Array, jax.Array], jax.Array] | None
    network: Callable[[Any], Model]
    model_data: Any
    model: Model
    co_learner: Model | None
    loss: Loss
    metric_name: str
    metric: Metric
    larger_is_better: bool
    batch_statistics: bool
    graph: dict[str, Any] | None


def problem(config) -> Problem:
    """Loads the data and builds the networks.

    Raises:
      ValueError: when the data cannot give such tasks.
    """
    shots = config.data.train_shots or config.data.shots
    at_least = max(shots + config.data.queries, config.data.shots + config.eval.queries)
    sample, data, split_hash, graph = _tasks(config, at_least)
    train_sample = partial(sample, shots=shots, queries=config.data.queries)
    test_sample = partial(sample, shots=config.data.shots, queries=config.eval.queries)
    if config.data.name in GRAPHS:
        train_sample = partial(train_sample, noise=True)
    for split in data:  # shapes alone: mistakes show here, before anything compiles
        draw = train_sample if split == "train" else test_sample
        jax.eval_shape(draw, jax.random.key(0), data[split])
    network, co_learner = _networks(config)
    regression = config.data.name == "sinusoid"
    error = cml_jax.squared_error
    return Problem(
        train_sample=train_sample,
        test_sample=test_sample,
        data=data,
        split_hash=split_hash,
        curve=partial(tasks.sinusoid_curve, **_waves(config.data)) if regression else None,
        network=network,
        model_data=data["train"],
        model=network(data["train"]),
        co_learner=co_learner,
        loss=error if regression else cml_jax.cross_entropy,
        metric_name="mse" if regression else "accuracy",
        metric=error if regression else cml_jax.accuracy,
        larger_is_better=not regression,
        batch_statistics=config.model.name == "conv4",
        graph=graph,
    )


def with_data(problem: Problem, data: Any) -> Problem:
    """The problem with the model on these data, which may be traced."""
    return problem._replace(model=problem.network(data), model_data=data)


def _waves(config):
    return {"amplitude": tuple(config.amplitude), "phase": tuple(config.phase)}


def _tasks(config, at_least):
    """The sampler, the arrays of each split that it draws from, their hash, and a graph's facts."""
    if config.data.name in GRAPHS:
        return graphs.node_tasks(config, at_least)
    config = config.data
    if config.name == "omniglot":
        splits = _load(config)
        draw = partial(tasks.episodes, ways=config.ways, rotations=config.rotations)
        data = {split: getattr(splits, split) for split in SPLITS}
        return draw, data, splits.split_hash, None
    if config.name == "sinusoid":
        draw = partial(tasks.sinusoid, **_waves(config))
    else:
        draw = partial(tasks.glyphs, ways=config.ways)
    return (lambda key, _, **shape: draw(key, **shape)), dict.fromkeys(SPLITS), "", None


def _load(config):
    from cml_jax.data import load_omniglot

    return load_omniglot(config.dir or None)


def _networks(config):
    """From data to the model, and the co-learner or None."""
    if config.model.name == "mlp":
        activation = getattr(nn, config.model.activation)
        hidden = tuple(config.model.hidden)
        model = models.mlp(1, hidden=hidden, activation=activation)
        co_learners = {
            "linear": partial(models.linear_co_learner, 1),
            "mlp": partial(models.mlp_co_learner, 1, width=hidden[-1], activation=activation),
        }
    elif config.data.name in GRAPHS:
        network, co_learners = graphs.networks(config)
    else:
        shape = {"filters": config.model.filters, "pool": config.model.pool}
        model = models.conv4(config.data.ways, extra_blocks=config.model.extra_blocks, **shape)
        co_learners = {
            "linear": partial(models.conv_co_learner, config.data.ways, depth=0, **shape),
            "conv": partial(
                models.conv_co_learner, config.data.ways, depth=config.co_learner_depth, **shape
            ),
        }
    name = config.co_learner
    co_learner = None if name in ("", "none") else co_learners[name]()
    return network if config.data.name in GRAPHS else lambda _: model, co_learner


def base_method(
    config,
    problem: Problem,
    num_steps: int,
    remat: bool = False,
    progress: jax.typing.ArrayLike | None = None,
) -> Method:
    """The method of the config without CML's co-learner.

    Args:
      config: the run's.
      problem: what `problem` returned.
      num_steps: of the inner loop.
      remat: as in `cml_jax.maml`.
      progress: the share of training that is done, which may be traced; None is at test.
    """
    if config.method == "reptile":
        return _reptile(config, problem, num_steps)
    rate = config.inner_learning_rate
    kwargs = {"num_steps": num_steps, "remat": remat}
    if config.inner_optimizer != "sgd":
        kwargs["optimizer"] = _inner_optimizer(config, b1=0.9, eps_root=1e-8)
    elif _set(config.body_rate):
        kwargs["learning_rate"] = {"body": rate * config.body_rate, "head": rate}
    else:
        kwargs["learning_rate"] = rate
    if config.first_order:
        kwargs["first_order"] = True
    name = config.method
    if name == "sharp_maml" and config.sharp == "upper":
        name = "maml"  # meta_step does the rest
    elif name == "sharp_maml":
        kwargs["radius"] = config.radius
    if config.method == "collaborative":
        kwargs["co_learner"] = problem.co_learner
    if config.method == "maml_plus_plus" and progress is not None:
        if config.multi_step_until:
            kwargs["step_weights"] = cml_jax.multi_step_weights(
                progress, num_steps, num_epochs=config.multi_step_until
            )
        if config.second_order_after and not config.first_order:
            kwargs["first_order"] = progress < config.second_order_after
    if config.model.name == "amm_gnn":
        return graphs.matched(config, problem, **kwargs)
    method = getattr(cml_jax, name)(problem.model, problem.loss, **kwargs)
    return graphs.on_subgraphs(config, problem, method)


def _set(factor):
    """Whether a factor may differ from 1: one that is traced differs from run to run."""
    return isinstance(factor, jax.Array) or factor != 1


def _reptile(config, problem, num_steps):
    shared = {"optimizer": _inner_optimizer(config, b1=0.0), "num_steps": num_steps}
    if config.inner_optimizer == "sgd" and not config.minibatch:
        method = cml_jax.reptile(problem.model, problem.loss, **shared)
    else:
        shared["minibatch"] = config.minibatch or config.data.shots * config.data.ways
        method = cml_jax.reptile_released(problem.model, problem.loss, **shared)
    return graphs.on_subgraphs(config, problem, method)


def _inner_optimizer(config, **adam):
    rate = config.inner_learning_rate
    return {
        "sgd": lambda: optax.sgd(rate),
        "momentum": lambda: optax.sgd(rate, momentum=0.9),
        "rmsprop": lambda: optax.rmsprop(rate),
        "adam": lambda: optax.adam(rate, **adam),
    }[config.inner_optimizer]()


def train_method(
    config, problem: Problem, remat: bool = False, progress: jax.typing.ArrayLike = 0.0
) -> Method:
    """The method that is trained: the base, and around it CML where there is a co-learner."""
    method = base_method(config, problem, config.num_steps, remat, progress)
    if problem.co_learner is None or config.method == "collaborative":
        return method
    return cml_jax.cml(
        method,
        problem.co_learner,
        problem.loss,
        scale=config.co_learner_scale,
        frozen=config.co_learner_frozen,
    )


def initial_state(config, problem: Problem) -> cml_jax.MetaState:
    """The state at step 0, a function of the seed; several runs are a leading axis."""
    data = problem.data["train"]
    # Of a test task: without keys for noise.
    example = jax.eval_shape(problem.test_sample, jax.random.key(0), data).support.inputs

    def init(config, data):
        key = jax.random.fold_in(jax.random.key(config.seed), 0)
        method, optimizer = train_method(config, with_data(problem, data)), outer_optimizer(config)
        inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
        return cml_jax.init(method, optimizer, key, inputs)

    return jax.jit(side_by_side(config, init, (None,)))(data)


def test_methods(config, problem: Problem, num_steps: int) -> dict[str, Method]:
    """What is scored at test: who predicts, to the method that adapts.

    "meta-learner" always (under CML: the co-learner is gone); with a co-learner also CML-dagger,
    as the paper writes it (eq. 9) and as its code has it.
    """
    base = base_method(config, problem, num_steps)
    methods = {"meta-learner": base}
    if problem.co_learner is not None and config.method != "collaborative":
        plain = config.method in ("maml", "fomaml", "anil", "boil", "sharp_maml")
        if plain and config.model.name != "amm_gnn":
            dagger = cml_jax.cml_dagger(
                problem.model,
                problem.co_learner,
                problem.loss,
                learning_rate=config.inner_learning_rate,
                num_steps=num_steps,
            )
            methods["co-learner (paper)"] = graphs.on_subgraphs(config, problem, dagger)
        methods["co-learner (released code)"] = cml_jax.cml_dagger_released(
            base, problem.co_learner
        )
    return methods


def validated(config, problem: Problem) -> dict[str, Method]:
    """Whose validation chooses the checkpoint, by their prefix in the metrics.

    CML-dagger as the released code has it stands for the co-learner: its adaptation is the base's.
    """
    base = base_method(config, problem, config.num_steps)
    methods = {"validation": base}
    if config.eval.best_of == "both":
        dagger = cml_jax.cml_dagger_released(base, problem.co_learner)
        methods["validation/co_learner"] = dagger
    return methods


def outer_optimizer(config) -> optax.GradientTransformation:
    """The outer optimiser with its schedule, clipping and decay, and the co-learner's own rate."""
    rate, steps = config.outer_learning_rate, config.train_steps
    schedule = {
        "constant": lambda: rate,
        "linear": lambda: optax.linear_schedule(rate, 0.0, steps),
        "cosine": lambda: optax.cosine_decay_schedule(rate, steps),
    }[config.outer_schedule]()
    own_decay = config.outer_optimizer in DECAYING
    decay = {"weight_decay": config.weight_decay} if own_decay else {}
    parts = [getattr(optax, config.outer_optimizer)(schedule, **decay)]
    if config.weight_decay and not own_decay:
        parts.insert(0, optax.add_decayed_weights(config.weight_decay))
    if config.max_gradient_norm:
        parts.insert(0, optax.clip_by_global_norm(config.max_gradient_norm))
    if _set(config.co_learner_rate):
        parts.append(_scale_co_learner(config.co_learner_rate))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _scale_co_learner(factor):
    def update(updates, _):
        if "co_learner" not in updates:
            return updates
        return updates | {"co_learner": optax.tree.scale(factor, updates["co_learner"])}

    return optax.stateless(update)
