"""`benchmarks/gpu.py` is for a machine that is rarely at hand: it must run to its end, whatever fails on the way."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GPU = ROOT / "benchmarks" / "gpu.py"
SIZE_1B_WEIGHTS = 1_235_814_400 - 33 * 2048  # of Llama-3.2-1B, but for its norms


@pytest.fixture
def benchmark_module(monkeypatch):
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def found(seconds=1.0, **more):
    return {
        "seconds": seconds, "examples": 10, "examples_per_second": 10 / seconds, "compile_seconds": 2.0,
        "peak_gib": 3.0, "work": {}, "facts": {}, "halvings": 0,
    } | more  # fmt: skip


def results(**sections):
    device = {
        "kind": "NVIDIA H100 80GB HBM3", "platform": "gpu", "memory_gib": 72.0, "measured_flops": 7e14,
        "measured_bandwidth": 3e12, "jax": "0.11.0", "runtime": "PJRT C API", "torch": "", "xla_flags": "",
    }  # fmt: skip
    return {"device": device, "size": "1b", "date": "today", "command": "it", "python": "3.12", "sections": sections}


def test_a_page_goes_on_with_its_own_size_and_card_alone(benchmark_module, tmp_path):
    gpu = benchmark_module("gpu")
    (tmp_path / "gpu.json").write_text(json.dumps({"sections": {}, "size": "tiny", "card": "NVIDIA A100"}))

    def given(size: str):
        return types.SimpleNamespace(budget=1.0, out=tmp_path, resume=True, size=size)

    runner = gpu.Runner(given("tiny"), "")
    runner.refuse_another("card", "NVIDIA A100")
    with pytest.raises(SystemExit, match=r"gpu.json is of card NVIDIA A100, not NVIDIA H200: name another folder"):
        runner.refuse_another("card", "NVIDIA H200")
    with pytest.raises(SystemExit, match=r"gpu.json is of size tiny, not 1b"):
        gpu.Runner(given("1b"), "")


def test_targets_that_are_missed_are_marked_and_explained(benchmark_module):
    report = benchmark_module("gpu_report")
    work = {"positions": 1000, "real_share": 0.9, "flops": 0.4 * 989.4e12, "rows": 1, "attention": "cudnn"}
    decoding = {"steps": 8, "bytes": 2.5e12, "flops": 1e12, "prefill_flops": 1e12}
    profile = [{"operation": "a_slow_kernel", "seconds": 0.1, "share": 0.5, "times": 3}]
    page = report.markdown(
        results(
            train_full={
                "ours": found(work=work, profile=profile),
                "torch_compiled": found(2.0, work={"positions": 900}),
            },
            rollouts={"ours": found(work=decoding, profile=profile)},
        )
    )  # fmt: skip
    lines = page.splitlines()
    assert "| train_full | MFU | 50 % | 40 % | **missed** |" in lines
    assert "| train_full | beside compiled PyTorch | 1.50 x | 2.00 x | reached |" in lines
    assert "| train_lora | beside compiled PyTorch | 1.50 x | not measured |  |" in lines
    assert "| rollouts | of the bandwidth bound | 60 % | 75 % | reached |" in lines
    assert "real positions/s" in page and "| ours | 10.0 | 900 | 1,000 | 40.0 % | 2.0 | 3.0 |" in lines
    assert "| torch_compiled | 5.0 | 450 | 450 | - | 2.0 | 3.0 |" in lines
    assert page.count("a_slow_kernel") == 1, "only where a target is missed"


def test_what_failed_or_was_left_out_is_said(benchmark_module):
    page = benchmark_module("gpu_report").markdown(
        results(
            thoughts={"codi_ours": {"error": "Traceback\nValueError: no"}, "codi_torch": {"left_out": "no PyTorch"}},
            train_full={"ours": found(halvings=1, trace_error="CUPTI\nis missing")},
            compile={"rollouts.ours": {"cold": 40.0, "warm": 3.0}, "train_full.ours": {"error": "no"}},
            command_buffers={"as they are": found(2.0), "other": {"error": "this XLA does not know the flag: x"}},
            attention={"ours": {"error": "no cuDNN"}},
        )
    )
    for text in ("ValueError: no", "left out, no PyTorch", "1/2 at a time", "no trace, is missing", "no cuDNN",
                 "| rollouts.ours | 40.0 | 3.0 |", "does not know the flag"):  # fmt: skip
        assert text in page


def test_every_section_has_a_writer_and_its_seconds_are_said(benchmark_module):
    gpu, report = benchmark_module("gpu"), benchmark_module("gpu_report")
    assert report.WRITERS.keys() == gpu.SECONDS.keys()
    for name, seconds in gpu.SECONDS.items():
        assert f"\n    {name:<15} {seconds:>3}   " in gpu.__doc__, name
    assert sum(gpu.SECONDS.values()) < 600, "under ten minutes by design"


def test_a_page_that_cannot_be_made_ends_nothing(benchmark_module, runner, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_module("gpu"), "ended", lambda *_: {"seconds": "soon"})
    runner().section("rl_iteration")
    assert json.loads((tmp_path / "gpu.json").read_text())["sections"]["rl_iteration"].keys() == {"ours", "torch_eager"}
    assert "Traceback" in (tmp_path / "gpu.md").read_text()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_process_is_reported_however_it_ends(benchmark_module):
    ended, environment = benchmark_module("gpu").ended, dict(os.environ)
    assert ended(python("print('RESULT {\"a\": 1}'); print('noise')"), environment, 60) == {"a": 1}
    failed = ended(python("raise ValueError('of its own')"), environment, 60)
    assert "ValueError: of its own" in failed["error"] and failed["error"].endswith("(ended with status 1)")
    after = ended(python("print('RESULT {\"a\": 1}', flush=True); import os; os.abort()"), environment, 60)
    assert after["a"] == 1 and after["trace_error"].endswith("(ended with signal 6)")
    assert ended(python("pass"), environment, 60) == {"error": "it said nothing"}


@pytest.mark.slow
def test_a_process_that_takes_too_long_is_stopped_with_what_it_started(benchmark_module, tmp_path):
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(tmp_path / 'alive')!r}).touch()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    begin = time.monotonic()
    assert benchmark_module("gpu").ended(python(code), dict(os.environ), 1)["error"] == "stopped after 1 s"
    assert time.monotonic() - begin < 3
    time.sleep(max(0.0, begin + 4.5 - time.monotonic()))
    assert not (tmp_path / "alive").exists()


@pytest.fixture
def runner(benchmark_module, tmp_path):
    def make(resume=False, budget=100.0):
        given = types.SimpleNamespace(
            budget=budget, out=tmp_path, resume=resume, size="1b", patience=1.0, profile="none"
        )
        made = benchmark_module("gpu").Runner(given, "cache")
        made.results["device"] = results()["device"]
        return made

    return make


def test_the_others_go_on_where_one_fails_and_only_it_is_done_again(benchmark_module, runner, monkeypatch, tmp_path):
    gpu, begun, fails = benchmark_module("gpu"), [], True

    def ended(command, environment, limit):
        begun.append(command[2])
        return {"error": "no"} if fails and "codi_ours" in command[2] else found()

    monkeypatch.setattr(gpu, "ended", ended)
    runner().section("thoughts")
    parts = ["thoughts.coconut_ours", "thoughts.codi_ours", "thoughts.coconut_torch", "thoughts.codi_torch"]
    assert begun == parts
    saved = json.loads((tmp_path / "gpu.json").read_text())["sections"]["thoughts"]
    assert [name for name, one in saved.items() if "error" in one] == ["codi_ours"]
    assert "codi_ours: failed" in (tmp_path / "gpu.md").read_text()
    fails = False
    begun.clear()
    runner(resume=True).section("thoughts")
    assert begun == ["thoughts.codi_ours"]
    assert "failed" not in (tmp_path / "gpu.md").read_text()


def test_no_part_begins_when_the_whole_time_is_used(benchmark_module, runner, monkeypatch):
    monkeypatch.setattr(benchmark_module("gpu"), "ended", lambda *_: pytest.fail("begun"))
    late = runner(budget=3.0)
    late.section("train_full")
    assert {one["left_out"] for one in late.results["sections"]["train_full"].values()} == {"no time was left"}


def test_flags_are_given_to_the_process_that_is_to_have_them(benchmark_module, runner, monkeypatch):
    seen = []
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    monkeypatch.setattr(
        benchmark_module("gpu"),
        "ended",
        lambda command, environment, _: seen.append(environment["XLA_FLAGS"]) or found(),
    )
    made = runner()
    made.section("command_buffers")
    assert seen[0] == "--mine" and "--mine --xla_gpu_enable_command_buffer=+WHILE" in seen
    made.results["sections"] = {"rollouts": {"ours": found(0.5)}}
    seen.clear()
    made.section("command_buffers")
    assert made.results["sections"]["command_buffers"]["as they are"]["seconds"] == 0.5
    assert seen.count("--mine") == 1, "the counted loops alone were not measured before"


@pytest.mark.parametrize(
    ("given", "card"), [(None, "0"), ("0", "0"), ("2,3", "2"), ("GPU-8f, GPU-91", "GPU-8f"), ("", ""), ("-1", "-1")]
)
def test_both_sides_see_the_first_card_alone(benchmark_module, runner, monkeypatch, given, card):
    """PyTorch computes on one; JAX would take all that a cluster has given."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert runner().environment("")["CUDA_VISIBLE_DEVICES"] == card
    seen = []

    def begin(command, env, **_):
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        raise OSError("no process")

    speed = benchmark_module("speed")
    monkeypatch.setattr(speed.subprocess, "Popen", begin)
    with pytest.raises(OSError, match="no process"):
        speed.compare("sft_fixed", 1, "gpu", "ours")
    assert seen == [card]


def test_compile_times_are_of_an_empty_cache_and_of_a_full_one(benchmark_module, runner, monkeypatch):
    begun = []

    def ended(command, environment, limit):
        begun.append(command[2])
        return found(compile_seconds=30.0 if begun.count(command[2]) == 1 else 3.0)

    monkeypatch.setattr(benchmark_module("gpu"), "ended", ended)
    made = runner()
    made.section("rollouts")
    made.section("compile")
    assert {(one["cold"], one["warm"]) for one in made.results["sections"]["compile"].values()} == {(30.0, 3.0)}
    assert begun.count("rollouts.ours") == 2 and begun.count("train_full.ours") == 2


@pytest.mark.slow
def test_half_the_work_is_tried_where_memory_does_not_do(benchmark_module):
    part, tried = benchmark_module("gpu_part"), []
    size = benchmark_module("gpu_sizes").SIZES["1b"]

    def make(size):
        tried.append((size.rows, size.rl_minibatch))
        if size.rows > 4:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return lambda: 1

    _, result = part.fitting(make, size, "jax", "cpu", True)
    assert tried == [(16, 32), (8, 16), (4, 8)] and result["halvings"] == 2

    def broken(size):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        part.fitting(broken, size, "jax", "cpu", True)


def test_a_known_card_has_its_makers_numbers_and_another_what_was_measured(benchmark_module):
    cards = benchmark_module("cards")
    assert cards.card_of("NVIDIA H200", 1.0, 2.0).bandwidth == 4.8e12
    assert cards.card_of("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 1.0, 2.0).bandwidth == 2.0


def test_the_bandwidth_bound_reads_all_weights_at_every_step(benchmark_module):
    ours, size = benchmark_module("gpu_ours"), benchmark_module("gpu_sizes").SIZES["1b"]
    work = ours.decode_work(size, prompt_positions=64 * 80)
    latent_head, steps, rollouts, a_position = 4 * (2048 * 2048 * 4), 80, 512, 16 * 2 * 8 * 64 * 2
    cache = sum(64 * 80 * a_position + rollouts * (step + 1) * a_position for step in range(steps))
    assert work["bytes"] == steps * 2 * SIZE_1B_WEIGHTS + 64 * latent_head + cache


def test_a_trace_is_summed_by_operation_on_the_devices_own_streams(benchmark_module):
    def line(name, *events):
        return types.SimpleNamespace(
            name=name, events=[types.SimpleNamespace(name=event, duration_ns=ns) for event, ns in events]
        )

    kernels = line("Stream #13(Compute)", ("gemm", 3e9), ("copy", 1e9), ("gemm", 4e9))
    derived = line("XLA Ops", ("gemm", 9e9))
    planes = [
        types.SimpleNamespace(name="/host:CPU", lines=[line("tf_XLA", ("dispatch", 5e9))]),
        types.SimpleNamespace(name="/device:GPU:0", lines=[kernels, derived]),
    ]
    first, second = benchmark_module("profile_summary").top_operations(types.SimpleNamespace(planes=planes), 5)
    assert first == {"operation": "gemm", "seconds": 7.0, "share": 7 / 8, "times": 2}
    assert second["operation"] == "copy"


def environment_of_a_try() -> dict[str, str]:
    quick = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick}


@pytest.mark.slow
def test_a_flag_that_xla_does_not_know_is_reported(benchmark_module):
    command = [sys.executable, GPU.with_name("gpu_part.py"), "device", "--size", "tiny", "--device", "cpu"]
    environment = environment_of_a_try() | {"PYTHONPATH": str(ROOT)}
    flags = f"{environment['XLA_FLAGS']} --xla_gpu_of_the_future=true"
    error = benchmark_module("gpu").ended(command, environment | {"XLA_FLAGS": flags}, 60)["error"]
    assert error.startswith("this XLA does not know the flag") and "--xla_gpu_of_the_future=true" in error


@pytest.mark.slow
def test_the_faster_opponent_has_the_published_loss_where_nothing_is_padded(benchmark_module):
    torch = pytest.importorskip("torch")
    flash, side = benchmark_module("torch_flash"), benchmark_module("torch_side")
    sizes = dict(hidden=32, layers=2, intermediate=64, vocab=64, heads=4, kv_heads=2, latent_intermediate=16)
    problem = side.Problem([5, 6, 7, 8], [9, 10, 11], [12, 13, 1])
    losses = []
    for attention, width in (("eager", None), (flash.CAUSAL, 16)):
        torch.manual_seed(0)
        model, policy = side.build_model(**sizes, attention=attention)
        step = side.SftStep(model, policy) if width is None else flash.FlashStep(model, policy, width)
        torch.manual_seed(1)
        losses.append(step.loss([problem], 1).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    embeds, labels, is_step = step.rows([problem, side.Problem([5], [6], [7, 1])], 2)
    assert embeds.shape[:2] == labels.shape == is_step.shape == (2, 16), "one shape, so that nothing is compiled again"
    assert is_step.sum(1).tolist() == [3, 2], "the separator has a slot of its own"
    assert (labels >= 0).sum(1).tolist() == [3 + 4, 2 + 3]


@pytest.mark.slow
@pytest.mark.parametrize("speed", [2, 3])
def test_the_published_rows_are_as_wide_as_counted(benchmark_module, monkeypatch, speed):
    torch = pytest.importorskip("torch")
    theirs, side = benchmark_module("gpu_theirs"), benchmark_module("torch_side")
    sizes = dict(hidden=32, layers=1, intermediate=64, vocab=64, heads=4, kv_heads=2, latent_intermediate=16)
    problems = [side.Problem([5, 6, 7, 8], [9, 10, 11], [12, 1]), side.Problem([5], [6] * 8, [12, 13, 14, 1])]
    step, widths = side.SftStep(*side.build_model(**sizes)), []
    count = side.positions
    monkeypatch.setattr(side, "positions", lambda mask: widths.append(mask.shape[1]) or count(mask))
    with torch.no_grad():
        step.loss(problems, speed)
    assert widths == [theirs.published_width(problems, speed)]


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu_at_a_tiny_size(tmp_path):
    """PyTorch's side too, where it is installed."""
    command = [sys.executable, GPU, "--size", "tiny", "--out", tmp_path, "--patience", "50", "--budget", "3000"]
    ran = subprocess.run(
        [*map(str, command), "--profile", "all"],
        env=environment_of_a_try(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    errors = {(name, part): one for name, of in sections.items() for part, one in of.items() if "error" in one}
    assert not errors
    page = (tmp_path / "gpu.md").read_text()
    assert "no number here means anything" in page and "PASS" in page and "Where the time of ours goes" in page
    if importlib.util.find_spec("torch"):
        assert "left out" not in page
