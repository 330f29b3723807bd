"""Every rule on quadratic losses, against numpy: adapted parameters and meta-gradient are exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from support.battery import QUADRATIC, meta_gradient, quadratic_batch, quadratic_loss

import cml_jax
from cml_jax import Batch, MetaState, Model, Task, meta_step
from cml_jax.methods.reptile import minibatches

CO_LEARNER = Model(
    lambda key, features: jnp.array([0.3]),
    lambda phi, features: ((jnp.concatenate([features[0], phi]), features[1]), features),
)
START = np.array([0.4, -0.2, 0.7, 0.3])  # body, body, head, co-learner
OWN, CO = np.eye(4)[[0, 1, 2]], np.eye(4)[[0, 1, 3]]  # what each of the two losses reads
RATE, STEPS, RADIUS, SCALE = 0.15, 3, 0.3, 0.6
WEIGHTS = np.array([0.2, 0.3, 0.5])
UNEVEN = np.array([[0.1, 0.1, 0.25], [-0.05, -0.05, 0.15], [0.2, 0.2, 0.05]])  # [step, parameter]
PER_PARAMETER = np.array([0.1, -0.05, 0.25])


def rule(method, rates=(1, 1, 1), **settings):
    """A method, and what numpy has to know of it: its rates `[K, 3]`, in units of RATE."""
    rates = np.array(rates) * RATE
    return method, np.tile(rates, (STEPS, 1)) if rates.ndim == 1 else rates, settings


def scaled(method, **settings):
    return partial(method, learning_rate=RATE, num_steps=STEPS, **settings)


RULES = {
    "maml": rule(scaled(cml_jax.maml)),
    "maml, remat": rule(scaled(cml_jax.maml, remat=True)),
    "maml, sgd": rule(partial(cml_jax.maml, optimizer=optax.sgd(RATE), num_steps=STEPS)),
    "maml, two rates": rule(
        partial(cml_jax.maml, learning_rate={"body": RATE / 2, "head": RATE}, num_steps=STEPS),
        (0.5, 0.5, 1),
    ),
    "fomaml": rule(scaled(cml_jax.fomaml), first_order=True),
    "anil": rule(scaled(cml_jax.anil), (0, 0, 1)),
    "boil": rule(scaled(cml_jax.boil), (1, 1, 0)),
    "meta_sgd": rule(
        scaled(cml_jax.meta_sgd),
        PER_PARAMETER / RATE,
        learned={"body": PER_PARAMETER[:2], "head": PER_PARAMETER[2:]},
    ),
    "meta_sgd, one step": rule(
        partial(cml_jax.meta_sgd, learning_rate=RATE, num_steps=1),
        PER_PARAMETER[None] / RATE,
        learned={"body": PER_PARAMETER[:2], "head": PER_PARAMETER[2:]},
    ),
    "maml_plus_plus": rule(
        scaled(cml_jax.maml_plus_plus),
        UNEVEN / RATE,
        learned={"body": UNEVEN[:, 0], "head": UNEVEN[:, 2]},
    ),
    "maml_plus_plus, multi-step": rule(
        scaled(cml_jax.maml_plus_plus, step_weights=WEIGHTS),
        UNEVEN / RATE,
        learned={"body": UNEVEN[:, 0], "head": UNEVEN[:, 2]},
        weights=WEIGHTS,
    ),
    "sharp_maml": rule(scaled(cml_jax.sharp_maml, radius=RADIUS), radius=RADIUS),
    "sharp_maml, head": rule(
        scaled(cml_jax.sharp_maml, radius=RADIUS, adapts={"body": False, "head": True}),
        (0, 0, 1),
        radius=RADIUS,
    ),
    "reptile": rule(
        partial(cml_jax.reptile, optimizer=optax.sgd(RATE), num_steps=STEPS),
        first_order=True,
        reptile=True,
    ),
    "collaborative": rule(scaled(cml_jax.collaborative, co_learner=CO_LEARNER), both_adapt=True),
}
# A second head there is: CML's would be a third.
CASES = [
    (name, cml) for name in RULES for cml in (False, True) if (name, cml) != ("collaborative", 1)
]


def slope(select, batch):
    """H and q of 1/2 (S z - c)' A (S z - c), whose gradient is H z - q."""
    matrix, center = map(np.asarray, batch)
    return select.T @ matrix @ select, select.T @ matrix @ center


def unroll(task, rates, *, both_adapt, radius, first_order):
    """The parameters after 0, ..., K steps, and of each step its direction and its Jacobian."""
    hessian, shift = slope(OWN, task.support)
    if both_adapt:
        hessian, shift = (
            x + y for x, y in zip((hessian, shift), slope(CO, task.support), strict=True)
        )
    path, directions, jacobians = [START], [], []
    for rate in rates:
        z, mask = path[-1], rate != 0
        direction, derivative = hessian @ z - shift, hessian
        if radius:
            gradient = mask * direction
            norm = np.linalg.norm(gradient)
            unit = gradient / norm
            turn = (np.eye(4) - np.outer(unit, unit)) @ (mask[:, None] * hessian) / norm
            direction = hessian @ (z + radius * unit) - shift
            derivative = hessian @ (np.eye(4) + radius * turn)
        path.append(z - rate * direction)
        directions.append(direction)
        jacobians.append(np.eye(4) - (0 if first_order else rate[:, None] * derivative))
    return path, directions, jacobians


def by_hand(name, task, with_cml):
    """z after every step `K + 1` x `[4]`, the gradient of z `[4]` and of every step's rates."""
    _, rates, settings = RULES[name]
    both = settings.get("both_adapt", False)
    rates = np.concatenate([rates, rates[:, 2:] * both], 1)
    path, directions, jacobians = unroll(
        task,
        rates,
        both_adapt=both,
        radius=settings.get("radius", 0),
        first_order=settings.get("first_order", False),
    )
    steps = len(rates)
    weights = settings.get("weights", np.eye(steps)[-1])
    (own, own_shift), (co, co_shift) = slope(OWN, task.query), slope(CO, task.query)
    arrives = [np.zeros(4)] + [
        w * (own @ z - own_shift) for w, z in zip(weights, path[1:], strict=True)
    ]
    if "reptile" in settings:
        arrives = [path[0] - path[-1]] + [np.zeros(4)] * steps
    arrives[-1] = arrives[-1] + (SCALE * with_cml + both) * (co @ path[-1] - co_shift)
    adjoint, of_rates = arrives[-1], []
    for k in reversed(range(steps)):
        of_rates.insert(0, -directions[k] * adjoint)
        adjoint = jacobians[k].T @ adjoint + arrives[k]
    return path, adjoint, np.array(of_rates)


def build(name, with_cml):
    method = RULES[name][0](QUADRATIC, quadratic_loss)
    if with_cml:
        return cml_jax.cml(method, CO_LEARNER, quadratic_loss, scale=SCALE)
    return method


def start(name, method):
    params = method.init(jax.random.key(0), jnp.eye(3))
    learned = RULES[name][2].get("learned")
    return params | {"inner_rates": jax.tree.map(jnp.asarray, learned)} if learned else params


def quadratic_tasks(count):
    """What would be the axis of examples is the first of A and of c."""
    batches = [quadratic_batch(seed) for seed in range(2 * count)]
    stack = partial(jax.tree.map, lambda *x: jnp.stack(x))
    return Task(stack(*batches[:count]), stack(*batches[count:]))


def flat(network):
    """Body, head and co-learner of a base or of its gradient, `[3]` or `[4]`."""
    head = network["head"]
    heads = [head["meta_learner"], head["co_learner"]] if isinstance(head, dict) else [head]
    return np.concatenate([network["body"], *heads])


@pytest.mark.parametrize("name, with_cml", CASES)
def test_adapted_parameters_and_meta_gradient(x64, name, with_cml):
    method, task = build(name, with_cml), Task(quadratic_batch(0), quadratic_batch(1))
    params = start(name, method)
    path, gradient, of_rates = by_hand(name, task, with_cml)
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)

    actual, actual_gradient = jax.jit(
        lambda params: (method.adapt(params, task.support), meta_gradient(method, params, task))
    )(params)
    base = flat(actual_gradient["base"])
    close(flat(actual.params), path[-1][: len(base)])
    close(base, gradient[: len(base)])
    if with_cml:
        close(actual_gradient["co_learner"], gradient[3:])
    if name.startswith("meta_sgd"):
        close(flat(actual_gradient["inner_rates"]), of_rates[:, :3].sum(0))
    if name.startswith("maml_plus_plus"):
        close(actual_gradient["inner_rates"]["body"], of_rates[:, :2].sum(1))
        close(actual_gradient["inner_rates"]["head"], of_rates[:, 2])


@pytest.mark.parametrize("weighed", ["displacements", "last steps", "gradients"])
@pytest.mark.parametrize(
    "name, with_cml",
    [("maml", True), ("anil", False), ("reptile", True), ("maml_plus_plus", False)],
)
def test_gradient_agreement(x64, name, with_cml, weighed):
    method, tasks, outer = build(name, with_cml), quadratic_tasks(3), optax.sgd(0.5)
    params = start(name, method)
    results = [by_hand(name, jax.tree.map(lambda x, t=t: x[t], tasks), with_cml) for t in range(3)]
    gradients = np.array([gradient for _, gradient, _ in results])
    g, own = {
        "displacements": ([path[0] - path[-1] for path, _, _ in results], {}),
        "last steps": (
            [path[-2] - path[-1] for path, _, _ in results],
            {"since": RULES[name][0](QUADRATIC, quadratic_loss, num_steps=STEPS - 1)},
        ),
        "gradients": (gradients, {"weigh_on": "gradients"}),
    }[weighed]
    g = np.array(g)[:, :3]
    agreement = g @ g.sum(0)
    weights = agreement / np.abs(agreement).sum()

    step = partial(meta_step, weigh=cml_jax.gradient_agreement, **own)
    state = MetaState(params, outer.init(params), jnp.int32(0))
    new, report = jax.jit(partial(step, method, outer))(state, tasks)
    expected = START - 0.5 * weights @ gradients
    np.testing.assert_allclose(flat(new.params["base"]), expected[:3], rtol=1e-10)
    if with_cml:
        np.testing.assert_allclose(new.params["co_learner"], expected[3:], rtol=1e-10)
    np.testing.assert_allclose(report["weight_min"], weights.min(), rtol=1e-10)


def test_released_reptile_with_adam_for_two_steps(x64):
    """Examples are points, and the loss is half the squared distance to each."""
    rate, decay, eps, rows_a_step = 0.05, 0.999, 0.3, 2
    points = Model(
        QUADRATIC.init,
        lambda p, inputs: (jnp.tile(ravel_pytree(p)[0], (len(inputs), 1)), p["body"]),
    )
    method = cml_jax.reptile_released(
        points,
        lambda outputs, targets: 0.5 * jnp.square(outputs - targets).sum(1).mean(),
        optimizer=optax.adam(rate, b1=0.0, b2=decay),
        num_steps=2,
        minibatch=rows_a_step,
    )
    outer, rng = optax.sgd(eps), np.random.default_rng(0)
    state = cml_jax.init(method, outer, jax.random.key(0), jnp.zeros((3, 1)))
    step = jax.jit(partial(meta_step, method, outer))
    theta, second, count = START[:3], np.zeros(3), 0
    for t in range(2):
        targets = rng.normal(size=(2, 3, 3))  # tasks, examples, coordinates
        batch = Batch(jnp.zeros((2, 3, 1)), jnp.asarray(targets))
        state, _ = step(state, Task(batch, batch))
        ends = []
        for examples in targets:
            fast, moment = theta, second
            for k, rows in enumerate(np.asarray(minibatches(t, 3, rows_a_step, 2))):
                gradient = fast - examples[rows].mean(0)
                moment = decay * moment + (1 - decay) * gradient**2
                corrected = moment / (1 - decay ** (count + k + 1))
                fast = fast - rate * gradient / (np.sqrt(corrected) + 1e-8)
            ends.append((fast, moment))
        count += 2
        theta = theta + eps * (np.mean([fast for fast, _ in ends], 0) - theta)
        second = np.mean([moment for _, moment in ends], 0)
        np.testing.assert_allclose(flat(state.params["base"]), theta, rtol=1e-12)
        carried = state.params["carried"]["inner_state"]
        np.testing.assert_allclose(flat(optax.tree.get(carried, "nu")), second, rtol=1e-9)
        assert optax.tree.get(carried, "count") == count
