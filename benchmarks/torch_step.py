"""The same meta-step in PyTorch: `vmap` over tasks and `grad`, or a Python loop over tasks.

python -m benchmarks.step --workload=W1 --export=FILE.npz
python -m benchmarks.torch_step --workload=W1 --params=FILE.npz [--loop] [--device=cuda]
"""

import argparse
import json
import os
import resource
import time

import numpy as np
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from benchmarks.workloads import WORKLOADS
from experiments.machine import allocator
from experiments.settings.config import KEYS


def convolutional(name, params, images, pool=True):
    """A block: convolution, batch norm with the batch's statistics, ReLU, max-pool."""
    images = F.conv2d(images, params[f"{name}/kernel"], params[f"{name}/bias"], padding=1)
    images = F.relu(normalized(f"{name}/BatchNorm_0", params, images))
    return F.max_pool2d(images, 2) if pool else images


def residual(name, params, images):
    """A block of ResNet-12, as MetaOptNet has it."""
    outputs = images
    for i in range(3):
        outputs = F.leaky_relu(outputs, 0.1) if i else outputs
        outputs = F.conv2d(outputs, params[f"{name}/kernel_{i}"], padding=1)
        outputs = normalized(f"{name}/BatchNorm_{i}", params, outputs)
    shortcut = F.conv2d(images, params[f"{name}/shortcut"][:, :, None, None])
    outputs = outputs + normalized(f"{name}/BatchNorm_3", params, shortcut)
    return F.max_pool2d(F.leaky_relu(outputs, 0.1), 2)


def normalized(name, params, images):
    """Batch norm with the batch's statistics."""
    scale, shift = params[f"{name}/scale"], params[f"{name}/bias"]
    return F.batch_norm(images, None, None, scale, shift, training=True)


def network(params, inputs):
    """Outputs, and what the co-learner reads."""
    if inputs.ndim == 2:
        for layer in ("body/Linear_0", "body/Linear_1"):
            inputs = F.relu(linear(params, f"base/{layer}/Dense_0", inputs))
        return linear(params, "base/head/Dense_0", inputs), inputs
    if "base/body/ResidualBlock_0/shortcut" in params:
        for i in range(4):
            inputs = residual(f"base/body/ResidualBlock_{i}", params, inputs)
        return linear(params, "base/head/Linear_0/Dense_0", inputs.mean((2, 3))), inputs
    for i in range(3):
        inputs = convolutional(f"base/body/ConvBlock_{i}", params, inputs)
    features = convolutional("base/body/ConvBlock_3", params, inputs, pool=False)
    pooled = F.max_pool2d(features, 2).flatten(1)
    return linear(params, "base/head/Linear_0/Dense_0", pooled), features


def co_learner(params, features):
    """Two convolution blocks, max-pool (ResNet-12: the mean), linear."""
    residual = "base/body/ResidualBlock_0/shortcut" in params
    features = convolutional("co_learner/ConvBlock_0", params, features, pool=False)
    features = convolutional("co_learner/ConvBlock_1", params, features, pool=not residual)
    features = features.mean((2, 3), keepdim=True) if residual else features
    return linear(params, "co_learner/Linear_0/Dense_0", features.flatten(1))


def linear(params, name, inputs):
    return F.linear(inputs, params[f"{name}/kernel"], params[f"{name}/bias"])


def load(path, size, filters):
    """The parameters that cml_jax wrote, in PyTorch's layouts; images are `size` x `size`."""
    params = {}
    for name, value in np.load(path).items():
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            side = size // 16
            if side and "Dense" in name and value.shape[0] == side * side * filters:
                # The flattened map of the heads is [h, w, c] there and [c, h, w] here.
                value = value.reshape(side, side, filters, -1).transpose(2, 0, 1, 3)
                value = value.reshape(side * side * filters, -1)
            value = value.T
        params[name] = torch.tensor(np.ascontiguousarray(value))
    return params


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, default="W1")
    parser.add_argument("--params", required=True, help="what benchmarks.step --export wrote")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=0, help="0: the workload's own")
    parser.add_argument("--loop", action="store_true", help="a Python loop over tasks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=KEYS["precision"].allowed, default="default")
    parser.add_argument(
        "--same_allocator", action="store_true", help="set the allocator as cml_jax does"
    )
    args = parser.parse_args()
    if args.same_allocator:
        allocator.restart_with_huge_pages(True)
    # As jax does on a GPU: TF32 unless float32 is asked for. On a CPU it is always float32.
    torch.backends.cuda.matmul.allow_tf32 = args.precision != "float32"
    torch.backends.cudnn.allow_tf32 = args.precision != "float32"
    torch.backends.cudnn.benchmark = True  # as XLA tries out its convolutions
    workload = WORKLOADS[args.workload]
    workload = workload._replace(tasks=args.tasks or workload.tasks)
    result = measure(workload, args.params, args.runs, args.loop, args.device)
    print(json.dumps({"workload": args.workload, "precision": args.precision} | result))


def measure(workload, path, runs, loop=False, device="cpu") -> dict:
    """Warms up and times `runs` steps from the parameters in `path`."""
    params = load(path, workload.size, workload.filters)
    params = {name: value.to(device) for name, value in params.items()}
    data = [torch.tensor(array) for array in workload.data()]
    if workload.ways:
        data[0], data[2] = (x.permute(0, 1, 4, 2, 3).contiguous() for x in (data[0], data[2]))
        data[1], data[3] = data[1].long(), data[3].long()
    data = [array.to(device) for array in data]
    loss = F.cross_entropy if workload.ways else F.mse_loss
    adapted = [name for name in params if name.startswith("base/")]

    def task_loss(params, s_inputs, s_targets, q_inputs, q_targets):
        def support_loss(fast):
            return loss(network(params | fast, s_inputs)[0], s_targets)

        fast = {name: params[name] for name in adapted}
        for _ in range(workload.inner_steps):
            if loop:
                gradients = torch.autograd.grad(
                    support_loss(fast), list(fast.values()), create_graph=True
                )
                gradients = dict(zip(fast, gradients, strict=True))
            else:
                gradients = grad(support_loss)(fast)
            fast = {k: v - workload.inner_rate * gradients[k] for k, v in fast.items()}
        outputs, features = network(params | fast, q_inputs)
        value = loss(outputs, q_targets)
        total = (
            value + loss(co_learner(params, features), q_targets) if workload.co_learner else value
        )
        return total, value

    if loop:
        for value in params.values():
            value.requires_grad_()

        def gradient(params):
            report = 0.0
            for task in zip(*data, strict=True):
                total, value = task_loss(params, *task)
                (total / workload.tasks).backward()
                report += value.item() / workload.tasks
            return {k: v.grad for k, v in params.items()}, report
    else:

        def mean_loss(params):
            totals, values = vmap(task_loss, (None, 0, 0, 0, 0))(params, *data)
            return totals.mean(), values.mean()

        def gradient(params):
            gradients, value = grad(mean_loss, has_aux=True)(params)
            return gradients, float(value)

    optimizer = torch.optim.Adam(params.values(), 1e-3)

    def step():
        optimizer.zero_grad()
        gradients, value = gradient(params)
        for name, parameter in params.items():
            parameter.grad = gradients[name]
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return value

    first_loss = step()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    median = float(np.median(times))
    result = {
        "ms_median": 1e3 * median,
        "ms_min": 1e3 * min(times),
        "runs": len(times),
        "tasks_per_second": workload.tasks / median,
        "gflops": workload.gflop() / median,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "first_loss": first_loss,
        "load": os.getloadavg()[0],
        "plan": "Python loop over tasks" if loop else "torch.func vmap over tasks",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {"torch": torch.__version__},
    }
    if device == "cuda":
        result["peak_device_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return result


if __name__ == "__main__":
    main()
