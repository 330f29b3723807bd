"""The programs that are compared, each in a process of its own."""

import json
import os
import subprocess
import sys

PROGRAMS = {
    "cml_jax": ["benchmarks.step", "--json"],
    "torch.func": ["benchmarks.torch_step"],
    "torch.func, same allocator": ["benchmarks.torch_step", "--same_allocator"],
    "torch loop": ["benchmarks.torch_step", "--loop"],
}


def run(program: str, *arguments: str, params: str = "", device: str = "cpu", seconds: float):
    """Runs a program of `PROGRAMS`.

    Args:
      program: Name of the program.
      arguments: Flags of the program.
      params: Path of an npz with the initial parameters, which cml_jax writes and the others read.
      device: "cpu" or "cuda".
      seconds: The longest that the program may take.

    Returns:
      What it measured: the JSON line that it prints last.

    Raises:
      RuntimeError: It failed, or took longer.
    """
    module, *fixed = PROGRAMS[program]
    command = [sys.executable, "-m", module, *fixed, *arguments]
    if program == "cml_jax":
        command += [f"--export={params}"]
    else:
        command += [f"--params={params}", f"--device={device}"]
    # Each program sets its own allocator. Without such a device jax must fail, not take another.
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment["JAX_PLATFORMS"] = device
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        message = f"{' '.join(command[1:])} took over {seconds:.0f} s: allow more --minutes"
        raise RuntimeError(message) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{' '.join(command[1:])} failed ({done.returncode}): {reason[:300]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ratios(rows: dict[str, list[dict]]) -> dict[str, list[float]]:
    """The time of cml_jax divided by that of each other program, pair by pair."""
    return {
        program: [
            ours["ms_median"] / theirs["ms_median"]
            for ours, theirs in zip(rows["cml_jax"], others, strict=True)
        ]
        for program, others in rows.items()
        if program != "cml_jax"
    }


def check_losses(name: str, rows: dict[str, list[dict]], tolerance: float) -> None:
    """Raises ValueError where a first loss is not cml_jax's, up to `tolerance` of it."""
    losses = {program: others[0]["first_loss"] for program, others in rows.items()}
    ours = losses["cml_jax"]
    if not all(abs(loss - ours) <= tolerance * abs(ours) for loss in losses.values()):  # NaN too
        raise ValueError(
            f"{name}: the programs do not compute the same loss ({losses}): correct one of them"
        )
