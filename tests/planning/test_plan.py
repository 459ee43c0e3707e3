"""`python -m colar_jax.plan` on eight host devices, its numbers held against closed forms."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cases import fast

from colar_jax.config import LatentHeadSettings, ModelConfig
from colar_jax.model.presets import PRESETS
from colar_jax.parallel.fsdp import TILE_ROWS
from colar_jax.planning.scaling import bytes_of_step

pytestmark = pytest.mark.slow  # a minute and more of compiling; CI's second step

ROOT = Path(__file__).parents[2]
ROWS_PER_CHIP, FLOAT = 2, 4
SMALL = (
    "--config=configs/arithmetic.py:smoke", "--stage=colar", "--compiler=host", f"--rows_per_chip={ROWS_PER_CHIP}",
    "--config.model.scan_layers=True", "--config.data.train_limit=60", "--config.data.num_test=4",
    "--config.data.num_val=8", "--config.stages.colar.steps=100",
    # In text: the closed forms do not count the small module that tells a speed as a number.
    "--config.stages.colar.latent.conditioning=text", "--config.stages.rl.latent.conditioning=text",
)  # fmt: skip


def run(*flags: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "colar_jax.plan", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def planned(*flags: str) -> dict:
    done = run(*SMALL, "--json", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def on_data() -> dict:
    return planned("--topology=v5e:2x4", "--config.parallel.mesh=data=8")


@pytest.fixture(scope="module")
def on_fsdp() -> dict:
    return planned("--topology=v5e:2x4", "--config.parallel.mesh=fsdp=8", "--rollout=no")


def step_of(plan: dict) -> dict:
    return plan["programs"][0]


def sent(plan: dict, kind: str) -> list[dict]:
    return [one for one in step_of(plan)["compiled"]["costs"]["collectives"] if one["kind"] == kind]


def test_parameters_and_optimizer_on_each_chip(on_data):
    held = step_of(on_data)["compiled"]["memory"]["arguments"]
    trained = FLOAT * on_data["num_trained"]
    assert on_data["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert held["trained"] == trained
    assert 0 <= held["optimizer"] - 2 * trained <= 16  # two moments, and counters
    assert (
        held["frozen"] == FLOAT * (on_data["num_parameters"] - on_data["num_trained"]) == FLOAT
    )  # the embedding scale


def test_a_decode_on_a_mesh_of_its_own_gathers_nothing():
    of_training = ("--topology=v5e:2x4", "--config.parallel.mesh=fsdp=8", "--config.parallel.decode_gather=layer")
    gathering, in_place = planned(*of_training), planned(*of_training, "--config.parallel.decode_mesh=tensor=2")
    assert gathering["decode_mesh"] == gathering["mesh"] == in_place["mesh"]
    assert in_place["decode_mesh"] == {"data": 4, "fsdp": 1, "tensor": 2}
    before, after = (plan["programs"][1]["compiled"]["costs"]["collectives"] for plan in (gathering, in_place))
    assert [(one["kind"], len(one["group"])) for one in before] == [("all-gather", 8)]
    assert [(one["kind"], len(one["group"])) for one in after] == [("all-reduce", 2)]
    assert sum(one["sent"] for one in after) < sum(one["sent"] for one in before)


def test_fsdp_splits_what_is_large(on_data, on_fsdp):
    whole, split = (step_of(plan)["compiled"]["memory"]["arguments"] for plan in (on_data, on_fsdp))
    assert split["trained"] < 0.4 * whole["trained"]  # norms and latent head are whole
    assert split["optimizer"] == pytest.approx(2 * split["trained"], abs=16)


def test_flops_are_those_of_the_model_layers_counted_one_by_one(on_data, on_fsdp):
    for plan in (on_data, on_fsdp):
        step = step_of(plan)
        assert step["compiled"]["costs"]["flops"] == pytest.approx(step["useful_flops"], rel=1e-6)


def test_data_parallel_training_sends_its_gradients_and_nothing_else(on_data):
    (reduced,) = sent(on_data, "all-reduce")
    assert step_of(on_data)["compiled"]["costs"]["collectives"] == [reduced]
    gradients = FLOAT * on_data["num_trained"]
    assert gradients <= reduced["payload"] <= gradients + 256  # and the metrics
    assert reduced["group"] == list(range(8))
    assert reduced["sent"] == pytest.approx(2 * 7 / 8 * reduced["payload"])


def test_fsdp_gathers_weights_and_scatters_gradients(on_data, on_fsdp):
    split = (
        8 / 7 * FLOAT * (on_fsdp["num_trained"] - step_of(on_fsdp)["compiled"]["memory"]["arguments"]["trained"] / 4)
    )
    (gathered,), (scattered,) = sent(on_fsdp, "all-gather"), sent(on_fsdp, "reduce-scatter")
    # What is split along its columns is padded to whole tiles for each chip: embedding, attention's and MLP's outputs.
    pico, tiles = PRESETS["pico"], TILE_ROWS * 8
    rows = [on_fsdp["vocabulary"], *pico.num_layers * [pico.num_heads * pico.head_dim, pico.intermediate_size]]
    padding = FLOAT * pico.hidden_size * sum(-of_one % tiles for of_one in rows)
    assert scattered["payload"] == pytest.approx(split + padding, rel=0.01)
    # Layers forward and backward, the embedding (which is the language head) once.
    embedding = FLOAT * on_fsdp["vocabulary"] * PRESETS["pico"].hidden_size
    assert gathered["payload"] == pytest.approx(2 * (split - embedding) + embedding, rel=0.01)


def test_closed_forms_send_what_the_compiled_step_sends(on_data, on_fsdp):
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=on_data["vocabulary"])
    model = ModelConfig(preset="pico", latent_head=LatentHeadSettings(intermediate_size=32))
    for plan, fsdp in ((on_data, 1), (on_fsdp, 8)):
        compiled = sum(one["sent"] for one in step_of(plan)["compiled"]["costs"]["collectives"])
        assert sum(bytes_of_step(llama, model, fsdp, 8).values()) == pytest.approx(compiled, rel=0.05)  # norms, biases


def test_host_devices_give_no_times(on_data):
    step = step_of(on_data)
    assert step["roofline"] is None and step["mfu_bound"] is None and on_data["schedule_seconds"] is None
    assert "hbm_bytes" not in step["compiled"]["costs"] and step["useful_flops"] > 0


def test_the_schedule_is_the_stage_s(on_data):
    assert on_data["schedule"]["num_steps"] == 100
    assert on_data["schedule"]["per_step"] >= 8 * ROWS_PER_CHIP  # examples, at least one a row


def test_a_rollout_is_counted_to_its_limits(on_data):
    rollout = on_data["programs"][1]["compiled"]
    assert rollout["name"] == "rollout" and not rollout["costs"]["collectives"]
    # One question a chip, after its prompt; 8 latents and 8 answer tokens go through the layers one by one.
    layer = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 64
    half = planned("--topology=v5e:2x4", "--config.parallel.mesh=data=8", "--config.decode.max_latents=4")
    saved = rollout["costs"]["flops"] - half["programs"][1]["compiled"]["costs"]["flops"]
    heads = 32 * on_data["vocabulary"] + 32 * 32 * 4  # the language head, and the latent head of 32
    products = 2 * 4 * (2 * layer + heads)
    assert products < saved < 1.5 * products  # the rest is attention
    assert "hbm_bytes" not in rollout["costs"]  # those of a host's compiler say nothing of a chip's memory


QUESTIONS, GENERATIONS, LATENTS, ANSWER = 2 * 4, 4, 8, 8  # of an iteration on four chips; limits of a rollout


@pytest.fixture(scope="module")
def of_rewards() -> dict:
    flags = ("--stage=rl", "--topology=v5e:2x2", "--config.parallel.mesh=data=4", "--config.stages.rl.steps=10")
    return planned(*flags)


def test_an_iteration_is_rollouts_and_updates(of_rewards):
    update, rollouts = of_rewards["programs"]
    assert (rollouts["number"], rollouts["times"]) == (QUESTIONS * GENERATIONS, 1)
    assert (update["number"], update["times"]) == (QUESTIONS * GENERATIONS, 1)
    schedule = of_rewards["schedule"]
    assert (schedule["num_steps"], schedule["per_step"], schedule["unit"]) == (10, QUESTIONS * GENERATIONS, "rollouts")
    assert of_rewards["schedule_seconds"] is None  # of a host's programs no time on a chip follows


def test_an_update_takes_what_its_tree_rows_need(of_rewards):
    update, rollouts = of_rewards["programs"]
    assert update["compiled"]["costs"]["flops"] == pytest.approx(update["useful_flops"], rel=0.02)
    (reduced,) = update["compiled"]["costs"]["collectives"]
    assert reduced["payload"] == pytest.approx(FLOAT * of_rewards["num_trained"], abs=512)  # gradients and metrics
    # Each chip's rollouts go through the layers one position after the other, to their limits.
    layer = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 64
    positions = QUESTIONS // 4 * GENERATIONS * (LATENTS + ANSWER)
    assert rollouts["compiled"]["costs"]["flops"] > 2 * positions * 2 * layer
    assert not rollouts["compiled"]["costs"]["collectives"]


def test_latents_in_training_are_planned_too():
    plan = planned("--topology=v5e:2x2", "--stage=coconut", "--rollout=no", "--config.parallel.mesh=data=4")
    step = step_of(plan)
    assert step["compiled"]["costs"]["flops"] > 0 and step["mfu_bound"] is None
    assert plan["schedule"]["num_steps"] == 6


def test_a_head_that_learns_beside_the_model_needs_the_layers_forward_alone():
    """Of the step of `own_speed`, in which no gradient goes through them and no word is predicted."""
    flags = (
        "--config=configs/arithmetic.py", "--stage=auto", "--config.model.preset=pico", "--compiler=host",
        "--rows_per_chip=2", "--config.model.scan_layers=True", "--config.data.train_limit=60", "--topology=v5e:2x2",
        "--config.data.num_test=4", "--config.data.num_val=8", "--rollout=no", "--config.parallel.mesh=data=4",
    )  # fmt: skip
    done = run(*flags, "--json")
    assert done.returncode == 0, done.stderr
    step = step_of(json.loads(done.stdout))
    # Of a tiny model the head, forward and backward, is some of it.
    assert 0.95 * step["compiled"]["costs"]["flops"] < step["useful_flops"] <= step["compiled"]["costs"]["flops"]


@pytest.mark.parametrize("config", fast(["gsm8k_latent_grpo", "gsm8k_adaptive"], "gsm8k_latent_grpo"))
def test_rewards_of_other_latents_are_planned_too(config):
    """A sequence of latents that are made again has no closed form; rollouts of k-hot ones keep ids and scores."""
    flags = (f"--config=configs/{config}.py:smoke", "--stage=rl", "--compiler=host", "--topology=v5e:2x2", "--json")
    done = run(*flags, "--rows_per_chip=1", "--config.parallel.mesh=data=4")
    assert done.returncode == 0, done.stderr
    update, rollouts = json.loads(done.stdout)["programs"]
    assert update["compiled"]["costs"]["flops"] > 0 < rollouts["compiled"]["costs"]["flops"]
    assert bool(update["useful_flops"]) == (config == "gsm8k_latent_grpo")


def test_a_mistake_is_one_line_that_names_the_fix():
    done = run("--config=configs/arithmetic.py:smoke", "--topology=v5e:2x4", "--stage=colr")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == "error: --stage=colr is none of coconut, codi, colar, cot, icot, no_cot, rl. Did you mean 'colar'?"
