"""Our optimizer along the recorded path of PyTorch's AdamW (golden/README.md, adamw.npz).

The recorded gradients are of a padded batch, whose empty slots our batches do not have. The optimizer is fed those very
gradients: what they move, and how far, has to be what was recorded.
"""

import json

import jax
import numpy as np
import optax
import pytest
from golden.published import recorded

from colar_jax.config import OptimizerConfig
from colar_jax.training.optimizer import make_optimizer

NUM_STEPS = 3


def named(part: str) -> dict[str, np.ndarray]:
    golden = recorded("adamw")
    return {name.removeprefix(part): array for name, array in golden.items() if name.startswith(part)}


def settings() -> dict:
    return json.loads(str(recorded("adamw")["settings_json"]))


def our_optimizer():
    recorded_settings = settings()
    config = OptimizerConfig(
        learning_rate=recorded_settings["lr"],
        weight_decay=recorded_settings["weight_decay"],
        b1=recorded_settings["betas"][0],
        b2=recorded_settings["betas"][1],
        clip_norm=1e9,
        schedule="constant",
    )
    return make_optimizer(config, NUM_STEPS)


def path_of(optimizer) -> list[dict[str, np.ndarray]]:
    """The parameters after each recorded step."""
    parameters = named("start/")
    state, path, update = optimizer.init(parameters), [], jax.jit(optimizer.update)
    for step in range(NUM_STEPS):
        updates, state = update(named(f"step{step}/gradient/"), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        path.append(parameters)
    return path


def textbook_path() -> list[dict[str, np.ndarray]]:
    """The same by the AdamW of the paper in float64: bias correction, eps outside the root, decoupled decay."""
    s = settings()
    b1, b2 = s["betas"]
    parameters = {name: array.astype(np.float64) for name, array in named("start/").items()}
    mean, square = ({name: np.zeros_like(array) for name, array in parameters.items()} for _ in range(2))
    path = []
    for step in range(1, NUM_STEPS + 1):
        for name, gradient in named(f"step{step - 1}/gradient/").items():
            gradient = gradient.astype(np.float64)
            mean[name] = b1 * mean[name] + (1 - b1) * gradient
            square[name] = b2 * square[name] + (1 - b2) * gradient**2
            direction = mean[name] / (1 - b1**step) / (np.sqrt(square[name] / (1 - b2**step)) + s["eps"])
            parameters[name] = parameters[name] - s["lr"] * (direction + s["weight_decay"] * parameters[name])
        path.append(dict(parameters))
    return path


def test_the_recorded_settings():
    assert settings() == {"lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False}


@pytest.mark.parametrize("step", range(NUM_STEPS))
def test_the_recorded_path(step):
    golden, start, after = recorded("adamw"), named("start/"), path_of(our_optimizer())[step]
    assert len(start) == 15
    for name, array in after.items():
        moved = np.linalg.norm(np.asarray(array, np.float64) - start[name])
        # The sums of parameters and steps are float32, ours and the recorded ones.
        rounding = 2 * 2.0**-24 * float(np.linalg.norm(start[name]))
        assert moved == pytest.approx(float(golden[f"step{step}/moved_norm/{name}"]), rel=3e-5, abs=rounding), name
        assert np.linalg.norm(np.asarray(array, np.float64)) == pytest.approx(
            float(golden[f"step{step}/norm/{name}"]), rel=1e-6
        )


def test_the_textbook():
    plain = optax.adamw(1e-4, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)
    for ours, theirs, expected in zip(path_of(our_optimizer()), path_of(plain), textbook_path(), strict=True):
        for name, array in expected.items():
            for path in (ours, theirs):
                np.testing.assert_allclose(path[name], array, rtol=3e-7, atol=1e-8, err_msg=name)
