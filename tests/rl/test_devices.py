"""Rollouts and updates do not depend on the number of devices, nor on how a minibatch is split.

As a script (`python test_devices.py numbers.npz accumulation`) it writes the numbers of all devices that there are.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]


def write_numbers(path: str, accumulation: int) -> None:
    import jax
    from rl.pico_policy import PROMPTS, SAMPLING, SEPARATOR_ID, batch_of, policy, sampler

    from colar_jax.config import OptimizerConfig, RlConfig, StageConfig
    from colar_jax.engine import Engine
    from colar_jax.metrics import divide
    from colar_jax.parallel.mesh import make_mesh, put_rows, replicate
    from colar_jax.rl.grpo import make_policy_step
    from colar_jax.training.optimizer import make_optimizer
    from colar_jax.training.state import initial_state, join, partition

    mesh = make_mesh()
    graph, parameters = policy()
    engine = Engine(graph, mesh)
    run = sampler(engine=engine)
    trainable, frozen = partition(parameters, ("llama", "latent_head"))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, schedule="constant"), 1)
    state = replicate(initial_state(trainable, optimizer), mesh)
    ((_, sampled),) = run.run(replicate(parameters, mesh), PROMPTS, jax.random.key(4))
    stage = StageConfig(
        method="colar",
        trainer="grpo",
        accumulation=accumulation,
        rl=RlConfig(beta=0.1, entropy_weight=0.1, minibatch_size=32),
    )
    step = make_policy_step(engine, stage, SAMPLING, SEPARATOR_ID, optimizer)
    frozen_and_reference = frozen | {"reference": jax.tree.map(lambda leaf: 1.01 * leaf, trainable)}
    batch = batch_of(sampled, num_rows=8)  # half of them empty
    state, metrics = step(state, frozen_and_reference, put_rows(batch, mesh), jax.random.key(0))
    values = divide(metrics)
    arrays = {f.name: getattr(sampled, f.name) for f in dataclasses.fields(sampled) if f.name != "prompts"}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    leaves = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(join(state.trainable, frozen)))}
    np.savez(
        path, devices=jax.device_count(), **arrays, **leaves, **{k.replace("/", "."): v for k, v in values.items()}
    )


def numbers_of(path: Path, devices: int, accumulation: int) -> dict[str, np.ndarray]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, str(path), str(accumulation)]
    subprocess.run(command, env=environment, check=True, timeout=600)
    with np.load(path) as arrays:
        numbers = dict(arrays)
    assert numbers.pop("devices") == devices
    return numbers


@pytest.mark.slow
def test_four_devices_are_one_and_parts_are_the_whole(tmp_path):
    expected = numbers_of(tmp_path / "one.npz", 1, 1)
    for devices, accumulation in ((4, 2), (1, 4)):
        actual = numbers_of(tmp_path / "other.npz", devices, accumulation)
        assert actual.keys() == expected.keys()
        for name, values in expected.items():
            if name.startswith("gap."):  # a maximum of each part
                continue
            np.testing.assert_allclose(actual[name], values, rtol=2e-3, atol=2e-5, err_msg=name)


if __name__ == "__main__":
    write_numbers(sys.argv[1], int(sys.argv[2]))
