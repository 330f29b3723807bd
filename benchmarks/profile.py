"""Where the time of a step goes, from a trace of two steps and the compiled program."""

import re
import tempfile
import time
from collections import Counter
from pathlib import Path

_STEPS = 2
_SHOWN = 15  # the most expensive operations
_OUTSIDE = "idle, or outside operations"
_FIELDS = ("kind", "shape", "op_name")
# On an accelerator: copies to and from the host, kernels without a name.
_UNKNOWN = ("other", "", "")


def trace(compiled, state, tasks, lanes: int) -> dict:
    """Traces two steps.

    Args:
      compiled: The compiled `(state, tasks) -> (state, metrics)`, which donates the state.
      state, tasks: Its arguments.
      lanes: How many things can run at a time: the number of CPU cores or of accelerators.

    Returns:
      What `summary` returns.
    """
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # it would slow down the dispatch
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder, profiler_options=options)
        started = time.perf_counter()
        for _ in range(_STEPS):
            state, _ = compiled(state, tasks)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - started
        jax.profiler.stop_trace()
        newest = max(Path(folder).rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
        planes = jax.profiler.ProfileData.from_file(str(newest)).planes
        times, calls = self_times(planes)
    return summary(kinds(compiled.as_text()), times, calls, _STEPS, seconds, lanes)


def summary(program: dict, times: Counter, calls: Counter, steps: int, seconds: float, lanes: int):
    """The time of one step by kind of operation, and its most expensive operations.

    Args:
      program: What `kinds` returned.
      times, calls: What `self_times` returned.
      steps, seconds: How many steps were traced, and how long they took.
      lanes: How many things could run at a time; `lanes * seconds` is 100%.

    Returns:
      "ms" a step under the trace, "lanes", "kinds" (name to seconds and share) and "operations".
    """
    whole = lanes * seconds / steps
    by_kind = Counter()
    for name, nanoseconds in times.items():
        by_kind[program.get(name, _UNKNOWN)[0]] += nanoseconds / 1e9 / steps
    # That includes what other threads do for an operation: a trace names only the one that asked.
    by_kind[_OUTSIDE] = max(whole - sum(by_kind.values()), 0.0)
    return {
        "ms": 1e3 * seconds / steps,
        "lanes": lanes,
        "kinds": {
            kind: {"seconds": value, "share": value / whole}
            for kind, value in by_kind.most_common()
        },
        "operations": [
            {
                "name": name,
                **dict(zip(_FIELDS, program.get(name, _UNKNOWN), strict=True)),
                "seconds": nanoseconds / 1e9 / steps,
                "share": nanoseconds / 1e9 / steps / whole,
                "calls": calls[name] / steps,
            }
            for name, nanoseconds in times.most_common(_SHOWN)
        ],
    }


def describe(profile: dict) -> str:
    """The result of `trace` as two tables."""
    lines = [f"\n{profile['ms']:.1f} ms a step under the trace, {profile['lanes']} in parallel"]
    for kind, row in profile["kinds"].items():
        lines.append(f"  {kind:28} {row['seconds']:9.4f} s {row['share']:6.1%}")
    lines.append("the most expensive operations, for one step")
    for row in profile["operations"]:
        numbers = f"{row['seconds']:9.4f} s {row['share']:6.1%} {row['calls']:6.0f}x"
        names = f"{row['name'][:30]:30} {row['shape'][:24]:24} {row['op_name'][-70:]}"
        lines.append(f"  {numbers} {names}")
    return "\n".join(lines)


def self_times(planes) -> tuple[Counter, Counter]:
    """Nanoseconds and calls of each HLO operation, without those that run inside it."""
    planes = list(planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    times, calls = Counter(), Counter()
    for plane in devices or planes:
        lines = list(plane.lines)
        # Some backends show their operations again, grouped, on lines beside this one.
        for line in [line for line in lines if line.name == "XLA Ops"] or lines:
            events = []
            for event in line.events:
                name = dict(event.stats).get("hlo_op") or (event.name if devices else None)
                if name:
                    events.append((event.start_ns, -event.duration_ns, name))
            open_ = []  # (end, name) of the operations that the next event lies in
            for start, minus_duration, name in sorted(events):
                while open_ and open_[-1][0] <= start:
                    open_.pop()
                if open_:
                    times[open_[-1][1]] += minus_duration
                times[name] -= minus_duration
                calls[name] += 1
                open_.append((start - minus_duration, name))
    return times, calls


def kinds(hlo: str) -> dict[str, tuple[str, str, str]]:
    """Each instruction's kind, shape and `op_name`, from the text of a compiled program."""
    instructions, bodies, body = {}, {}, set()
    for line in hlo.splitlines():
        if line.endswith("{") and (match := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", line)):
            body = bodies.setdefault(match[1], set())
        elif match := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(", line):
            name, shape, opcode = match.groups()
            called, target, op_name = (
                (re.search(pattern, line) or ["", ""])[1]
                for pattern in (
                    r"calls=%?([\w.\-]+)",
                    r'custom_call_target="([^"]*)"',
                    r'op_name="([^"]*)"',
                )
            )
            instructions[name] = opcode, called, target, shape.split("{")[0], op_name
            body.add(name)

    def inside(name):
        opcode, called, *_ = instructions[name]
        return {opcode}.union(*map(inside, bodies.get(called, ())))

    def kind(name):
        opcode, _, target, *_ = instructions[name]
        opcodes = inside(name)
        if opcodes & {"dot", "convolution"} or re.search("gemm|matmul|conv(?!ert)", target):
            return "matrix products"
        if opcode.startswith("all-reduce"):
            return "all-reduce, waiting"
        if opcodes & {"reduce", "reduce-window"}:
            return "reductions"
        if opcode in ("while", "conditional", "call", "async-start", "async-done"):
            return "loops and calls"
        return "element-wise and copies"

    return {name: (kind(name), *instructions[name][3:]) for name in instructions}
