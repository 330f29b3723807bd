"""The benchmarks: what is counted, what is reported, and that both programs do the same step."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import forms as timed_forms
from benchmarks import growth, picture, profile, programs, report, step, training, wait
from benchmarks.workloads import WORKLOADS
from cml_jax.ops import forms
from experiments.report import cells
from experiments.run_folder import folder
from experiments.studies import STUDIES
from experiments.studies.study import Study

ROOT = Path(__file__).parents[2]


def row(ms, mb=100.0, **more):
    base = {
        "ms_median": ms,
        "gflops": 36.8e3 / ms,
        "peak_rss_mb": 100.0,
        "versions": {"jax": "1.2"},
    }
    return (
        base
        | {
            "tasks_per_second": 32e3 / ms,
            "matmul_gflops": 400.0,
            "load_before": 0.5,
            "compiled_mb": mb,
        }
        | more
    )


@pytest.fixture
def store():
    """What `benchmarks.compare` stores: W1 in two pairs."""
    rows = {
        "cml_jax": [row(150), row(130)],
        "torch.func": [row(600), row(500)],
        "torch.func, same allocator": [row(300), row(260)],
    }
    entry = {"rows": rows, "ratios": programs.ratios(rows)}
    return {"command": "the command", "cores": 4, "W1": entry}


def test_the_arithmetic_of_a_small_workload_by_hand():
    # 2 tasks; 3 support points through 1-40-40-1 nine times for each of 2 steps, 5 queries thrice.
    products = 1 * 40 + 40 * 40 + 40 * 1
    flop = 2 * (2 * products) * (9 * 2 * 3 + 3 * 5)
    small = WORKLOADS["W4"]._replace(tasks=2, support=3, query=5, inner_steps=2)
    assert small.gflop() == pytest.approx(flop / 1e9)


def test_the_arithmetic_of_omniglot_by_hand():
    first, *others = (2 * 9 * c * 64 * s**2 for c, s in ((1, 28), (64, 14), (64, 7), (64, 3)))
    support, query = 4 * first + 9 * sum(others), 2 * first + 3 * sum(others)
    assert WORKLOADS["W1"].gflop() == pytest.approx(32 * (5 * support + 5 * query) / 1e9)
    assert WORKLOADS["W1"].gflop() == pytest.approx(36.8, abs=0.1)


def test_the_arithmetic_of_resnet12_by_hand():
    sizes, widths = (32, 16, 8, 4), (3, 64, 128, 256, 512)
    blocks = [
        2 * s**2 * np.array([10 * c * w, 18 * w * w])
        for s, c, w in zip(sizes, widths, widths[1:], strict=False)
    ]
    first, rest = blocks[0][0], sum(map(sum, blocks)) - blocks[0][0]
    co_learner = 2 * 2**2 * 2 * 9 * 512 * 512
    support, query = 4 * first + 9 * rest, 2 * first + 3 * (rest + co_learner)
    assert WORKLOADS["W6"].gflop() == pytest.approx(4 * (5 * support + 75 * query) / 1e9)


def test_the_report_has_ratios_and_keeps_what_people_wrote(store):
    text = f"# Title\n\nby hand\n\n{report._BEGIN}\nold numbers\n{report._END}\n\nafter, by hand\n"
    page = report.replace(text, report.measured(store))
    assert page.startswith("# Title\n\nby hand\n\n") and page.endswith("\n\nafter, by hand\n")
    assert "old numbers" not in page and "the command" in page
    assert "| torch.func | 550.0 | **0.255** (0.250, 0.260) |" in page
    assert "| torch.func, same allocator | 280.0 | **0.500** (0.500, 0.500) |" in page
    assert report.replace(page, report.measured(store)) == page


def test_a_page_without_its_marks_is_left_alone():
    with pytest.raises(ValueError, match="lacks the lines"):
        report.replace(f"{report._END}\n{report._BEGIN}\n", "new")


def test_the_report_of_a_gpu_has_the_device_the_run_and_what_failed(store):
    fast = row(2.0, device="a card", matmul_gflops=46e3, peak_device_mb=1234.0)
    rows = {"cml_jax": [fast], "torch.func": [fast | {"ms_median": 5.0}]}
    gpu = {
        "command": "python -m benchmarks.gpu",
        "precisions": {
            "default": {"W1": {"rows": rows, "ratios": programs.ratios(rows)}},
            "float32": {},
        },
        "run": {
            "command": "python -m experiments.main",
            "target": 0.987,
            "reached": {"step": 1500, "seconds": 40.0, "wall_seconds": 61.0},
        },
        "studies": {
            "cifar_fs_full": {
                "1-shot: MAML": {"step": 30000, "ended": True, "wall_seconds": 750.0},
                "1-shot: MAML + CML": {"step": 1200, "ended": False, "wall_seconds": 36.0},
            }
        },
        "failed": {"W2, float32": "no time was left"},
        "convolutions": {
            "origin": {"command": "the forms"},
            "rows": [timed("conv", "wide", xla=2.0, taps=1.0)],
        },
    }
    text = report.measured(store, gpu)
    assert "a card, precision default (a matrix product: 46 TFLOP/s; jax 1.2):" in text
    assert "| 2.0 |  | 16,000 | 18.4 | 40% | 1234 |" in text
    assert "reached 98.7% on validation at step 1500, 40 s after" in text
    assert "| 1-shot: MAML | 30,000 | 12.5 |" in text
    assert "| 1-shot: MAML + CML | 1,200, not at its end | 0.6 |" in text
    assert "Not measured: W2, float32: no time was left" in text
    assert "`the forms`, ms" in text and "| a layer | conv | wide | 2.00 | **1.00** |" in text


def timed(operation, kind, **ms):
    row = {"layer": "a layer", "operation": operation, "class": kind, "taken": "patches"}
    return row | {"ms": ms}


def test_the_form_that_is_taken_is_the_fastest_over_the_shapes_of_a_class():
    rows = [
        timed("conv", "wide", xla=1.0, patches=3.0, winograd4=1.5),
        timed("conv", "wide", xla=9.0, patches=2.0, winograd4=2.5),
        timed("conv", "strided", taps=0.95, patches=1.0),  # not a tenth faster
        timed("input_gradient", "strided", taps=0.8, patches=1.0),
        timed("conv", "thin", xla=3.0, patches=2.0, winograd4=1.0),  # has to fit every kernel
        timed("weight_gradient", "thin", taps=1.0, patches=2.0),
        timed("weight_gradient", "thin", patches=2.0),  # there was no memory for the others
    ]
    assert timed_forms.choose(rows) == {
        "conv": {"wide": "winograd4", "thin": "patches", "strided": "patches"},
        "input_gradient": {"strided": "taps"},
        "weight_gradient": {"thin": "patches"},
    }


def test_every_form_of_a_layer_is_timed_and_the_table_stays():
    before = json.dumps(forms.TABLE)
    layer = timed_forms.Layer(tasks=2, images=2, size=4, channels=1, features=2, stride=2)
    rows = timed_forms.measure(layer, "cpu", rounds=1)
    assert [row["operation"] for row in rows] == ["conv", "weight_gradient"]  # it reads pictures
    for found in rows:
        assert found["class"] == "strided" and set(found["ms"]) == {"xla", "taps", "patches"}
        assert min(found["ms"].values()) > 0
    assert json.dumps(forms.TABLE) == before


def test_what_was_not_measured_stays_in_the_table(monkeypatch, tmp_path):
    shutil.copy(forms.PATH, tmp_path / "forms.json")
    monkeypatch.setattr(forms, "PATH", tmp_path / "forms.json")
    timed_forms.write("cuda", {"device": "a card"}, {"conv": {"wide": "patches"}})
    stored = json.loads((tmp_path / "forms.json").read_text())
    xla = dict.fromkeys(forms.CLASSES, "xla")
    assert stored["cuda"]["forms"]["conv"] == xla | {"wide": "patches"}
    assert stored["cuda"]["origin"] == {"device": "a card"}
    assert {name: stored[name] for name in forms.TABLE} == forms.TABLE


def test_the_pictures_are_drawn_from_what_there_is(store, tmp_path):
    pytest.importorskip("matplotlib", reason="PICTURES NOT TESTED: install matplotlib")
    picture.draw(store, tmp_path / "performance.png")
    point = {"ms": 5.0, "mb": 80.0, "gflop": 2.0}
    stored = {"--workload=W1 --tasks=1": point, "--workload=W1 --devices=2": point}
    growth.draw(stored, tmp_path / "growth.png")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_arithmetic_at_the_pace_of_the_last_point():
    known = [("1", {"ms": 4.0, "gflop": 6.0}), ("2", {"ms": 3.0, "gflop": 6.0})]
    assert growth.theory(known) == [6.0, 3.0]  # shared by devices
    known[0][1]["gflop"] = 2.0
    assert growth.theory(known) == [1.0, 3.0]


def test_other_losses_are_an_error():
    rows = {"cml_jax": [{"first_loss": 1.0}], "torch.func": [{"first_loss": 1.01}]}
    programs.check_losses("W1", rows, 2e-2)
    with pytest.raises(ValueError, match="W1: the programs do not compute the same loss"):
        programs.check_losses("W1", rows, 1e-3)
    rows["torch.func"][0]["first_loss"] = float("nan")
    with pytest.raises(ValueError, match="do not compute the same loss"):
        programs.check_losses("W1", rows, 1e-3)


HLO = """HloModule toy

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  ROOT %dot.1 = f32[4,4]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%outer (q: f32[4,4]) -> f32[4,4] {
  %q = f32[4,4]{1,0} parameter(0)
  ROOT %nested = f32[4,4]{1,0} fusion(%q), kind=kLoop, calls=%inner
}

ENTRY %main (x: f32[4,4]) -> f32[4] {
  %x = f32[4,4]{1,0} parameter(0)
  %product_fusion = f32[4,4]{1,0} fusion(%x), kind=kCustom, calls=%outer, metadata={op_name="conv"}
  %gemm = (f32[4,4]{1,0}, s8[64]{0}) custom-call(%x), custom_call_target="__cublas$gemm"
  %loop = (s32[], f32[4,4]{1,0}) while(%x), condition=%c, body=%b
  %all-reduce.3 = f32[4,4]{1,0} all-reduce(%product_fusion), to_apply=%add
  %copy.2 = f32[4,4]{0,1} copy(%all-reduce.3)
  ROOT %mean = f32[4]{0} reduce(%copy.2, %zero), dimensions={0}, to_apply=%add
}
"""


def test_operations_are_told_apart_by_what_is_inside_them():
    program = profile.kinds(HLO)
    assert program["product_fusion"] == ("matrix products", "f32[4,4]", "conv")
    found = {name: program[name][0] for name in ("gemm", "loop", "all-reduce.3", "copy.2", "mean")}
    assert found == {
        "gemm": "matrix products",
        "loop": "loops and calls",
        "all-reduce.3": "all-reduce, waiting",
        "copy.2": "element-wise and copies",
        "mean": "reductions",
    }


def event(name, start, duration, hlo=True):
    stats = [("hlo_op", name)] if hlo else []
    return SimpleNamespace(name=name, start_ns=start, duration_ns=duration, stats=stats)


def test_time_inside_an_operation_is_counted_once():
    thread = [
        event("copy.2", 40, 10),
        event("loop", 0, 100),
        event("Execute", 0, 200, hlo=False),
        event("gemm", 10, 30),
        event("loop", 100, 50),
    ]
    other = [event("gemm", 0, 60)]
    lines = [
        SimpleNamespace(name=str(i), events=events) for i, events in enumerate([thread, other])
    ]
    times, calls = profile.self_times([SimpleNamespace(name="/host:CPU", lines=lines)])
    assert times == {"loop": 110, "gemm": 90, "copy.2": 10}
    assert calls == {"loop": 2, "gemm": 2, "copy.2": 1}


def test_shares_are_of_all_lanes_and_what_is_left_is_idle():
    times = Counter({"gemm": 2e9, "copy.2": 1e9, "memcpy": 1e9})
    result = profile.summary(profile.kinds(HLO), times, Counter(gemm=4), 2, 2.0, lanes=4)
    assert result["ms"] == 1000 and result["lanes"] == 4
    assert {kind: value["share"] for kind, value in result["kinds"].items()} == {
        "matrix products": 0.25,
        "element-wise and copies": 0.125,
        "other": 0.125,
        profile._OUTSIDE: 0.5,
    }
    first = result["operations"][0]
    assert first["name"] == "gemm" and first["calls"] == 2 and first["seconds"] == 1.0
    assert "gemm" in profile.describe(result)


# On Python 3.13 jaxlib's types of a trace have no module, and an error would abort the process.
@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")
def test_a_real_trace_finds_the_product():
    def toy(state, tasks):
        state = jnp.tanh(state @ tasks)
        return state, {"loss": state.sum()}

    arrays = jnp.full((400, 400), 0.01), jnp.full((400, 400), 0.01)
    compiled = jax.jit(toy, donate_argnums=0).lower(*arrays).compile()
    result = profile.trace(compiled, *arrays, lanes=4)
    assert result["kinds"]["matrix products"]["seconds"] > 0
    assert sum(kind["share"] for kind in result["kinds"].values()) == pytest.approx(1)


def test_torch_takes_the_same_step(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="BENCHMARKS NOT COMPARED WITH TORCH: install torch")
    workload = WORKLOADS["W4"]._replace(tasks=2)
    params = tmp_path / "params.npz"
    monkeypatch.setattr(step, "matmul_gflops", lambda: 100.0)
    ours = step.measure(workload, step.plan_of(workload), runs=1, export=str(params))
    # In a process of its own: torch and jax bring a thread pool each.
    command = [sys.executable, "-m", "benchmarks.torch_step", "--workload=W4", "--tasks=2"]
    done = subprocess.run(
        [*command, "--runs=1", f"--params={params}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs["first_loss"] == pytest.approx(ours["first_loss"], rel=1e-5)
    assert ours["tasks_per_second"] == pytest.approx(2e3 / ours["ms_median"])


def test_seeds_side_by_side_do_the_same_steps(monkeypatch):
    workload = WORKLOADS["W4"]._replace(tasks=2, inner_steps=1)
    monkeypatch.setattr(step, "matmul_gflops", lambda: 100.0)
    plan = step.plan_of(workload)
    one, two = (step.measure(workload, plan, runs=1, seeds=seeds) for seeds in (1, 2))
    assert two["first_loss"] == pytest.approx(one["first_loss"], rel=1e-6)
    assert two["gflop"] == 2 * one["gflop"] == 2 * workload.gflop()


def test_several_steps_of_an_execution_are_counted_one_by_one(monkeypatch):
    workload = WORKLOADS["W4"]._replace(tasks=2, inner_steps=1)
    monkeypatch.setattr(step, "matmul_gflops", lambda: 100.0)
    plan, seconds = step.plan_of(workload), iter(range(0, 1000, 8))
    one = step.measure(workload, plan, runs=1)
    monkeypatch.setattr(step.time, "perf_counter", lambda: next(seconds))
    four = step.measure(workload, plan, runs=3, steps=4)
    assert four["first_loss"] == pytest.approx(one["first_loss"], rel=1e-6)
    assert (four["ms_median"], four["runs"]) == (2000, 3)
    assert four["tasks_per_second"] == 1 and four["gflops"] == four["gflop"] / 2


def test_fewer_filters_are_a_quarter_of_the_products_after_the_first():
    wide = WORKLOADS["W1"]
    first, rest, _ = wide._forward()
    assert wide._replace(filters=32)._forward()[:2] == (first / 2, rest / 4)


def test_what_a_user_waits_for():
    """Medians of two rounds; the whole run at the pace after compilation, by hand."""
    parts = ["import, settings", "data", "trace, compile", "10 steps", "10 more, validation"]
    parts.append("test, report")
    rows = [
        {"workload": "sinusoid", "cache": "warm", **dict(zip(parts, times, strict=True))}
        for times in ([2, 1, 3, 0.1, 0.6, 5], [4, 1, 3, 0.1, 0.6, 5])
    ]
    [_, _, line] = wait._table(rows).splitlines()
    # 70,000 steps of 0.01 s, 28 validations of 0.5 s and a test of 5 s: 719 s.
    assert line == (
        "| sinusoid | warm | 3.0 | 1.0 | 3.0 | 0.1 | 0.6 | 5.0 | **7.1** | 12.7 | 12 min, 2% + 1% |"
    )


@pytest.mark.slow
def test_the_parts_of_a_start_are_found(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    times = wait._start("sinusoid", str(tmp_path))
    assert list(times) == [*wait._PARTS, "test, report"]
    assert all(seconds >= 0 for seconds in times.values()) and times["trace, compile"] > 0.1


def test_a_program_gets_its_time_and_not_more(tmp_path):
    log = tmp_path / "log"
    end = time.monotonic() + training.TO_STOP
    assert training.for_a_time(["-c", "print('done')"], log, end + 30)
    assert log.read_text() == "done\n"
    with pytest.raises(RuntimeError, match=r"failed \(3\): it broke"):
        training.for_a_time(["-c", "print('it broke'); raise SystemExit(3)"], log, end + 30)
    assert not training.for_a_time(["-c", "import time; time.sleep(100)"], log, end + 1)
    assert time.monotonic() < end


@pytest.mark.slow
def test_the_runs_of_a_study_go_on_in_the_next_call(tmp_path, monkeypatch):
    """The time is over as soon as the second has a report, and is not at the next call."""
    runs = {"first": ("train_steps=20",), "second": ("train_steps=600",)}
    monkeypatch.setitem(STUDIES, "own", Study("configs/sinusoid.py", runs))
    monkeypatch.chdir(ROOT)
    small = ["eval.every=20", "eval.validation_tasks=4", "eval.num_tasks=4", "eval.num_steps=1,"]
    done, stops = {}, [True]

    def clock():
        return 1000.0 * bool(stops and folder.read_rows(tmp_path / "cells" / "own" / "second"))

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    with pytest.raises(RuntimeError, match="the time is over: give the same command again"):
        training.study_cells("own", done, small, tmp_path, 100.0)
    assert done["first"]["ended"] and done["first"]["step"] == 20
    assert not done["second"]["ended"] and 20 <= done["second"]["step"] < 600
    assert set(cells.load(tmp_path / "own.json")) == {"first"}
    stops.clear()
    training.study_cells("own", done, small, tmp_path, 100.0)
    assert done["second"]["ended"] and done["second"]["step"] == 600
    steps = [row["step"] for row in folder.read_rows(tmp_path / "cells" / "own" / "second")]
    assert steps == sorted(set(steps))
    stored = cells.load(tmp_path / "own.json")["second"]["cells"]["0"]
    assert stored["progress"] == {"step": 600, "ended": True, "flat": stored["progress"]["flat"]}
