import json
import logging
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from colar_jax.runs.run_folder import open_checkpoints
from colar_jax.training.checkpoints import Checkpoints

IDENTITY = {"base": "tiny@1234", "method": "colar", "speeds": [2, 5]}


def train_state():
    """Every bit pattern that a parameter can have (NaNs, infinities and subnormal numbers too), and AdamW's state."""
    bits = np.random.default_rng(0).integers(0, 2**32, (64, 8), dtype=np.uint32)
    trainable = {
        "lora": [jax.lax.bitcast_convert_type(jnp.asarray(bits, jnp.uint16), jnp.bfloat16)],
        "head": {"bias": jax.lax.bitcast_convert_type(jnp.asarray(bits), jnp.float32)},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {"trainable": trainable, "optimizer": optimizer.init(trainable), "step": jnp.int32(7), "epoch": 3}


def abstract(tree):
    def of_leaf(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else 0

    return jax.tree.map(of_leaf, tree)


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b)
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def steps_on_disk(folder):
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
    state = train_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, metrics={"accuracy": 0.5, "length": 3}, identity=IDENTITY)
        assert_same_bits(checkpoints.restore(7, abstract(state)), state)
    with Checkpoints(tmp_path) as checkpoints:
        assert_same_bits(checkpoints.restore(7, abstract(state)), state)
        assert checkpoints.read(7) == ({"accuracy": 0.5, "length": 3.0}, IDENTITY)


def test_a_folder_without_checkpoints_has_no_steps(tmp_path):
    with Checkpoints(tmp_path / "stage" / "checkpoints") as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest_step(), checkpoints.best_step()) == ([], None, None)
        with pytest.raises(ValueError, match=r"no checkpoint of step 3 .* there are \[\]"):
            checkpoints.restore(3, {})
        with pytest.raises(ValueError, match="no checkpoint of step 3"):
            checkpoints.read(3)


def test_keeps_the_best_and_the_latest(tmp_path):
    nan = float("nan")
    # step, accuracy, what is on disk then, which of it is the best
    history = [
        (10, None, {10}, None),
        (20, 0.1, {20}, 20),
        (30, 0.5, {20, 30}, 30),
        (40, 0.3, {20, 30, 40}, 30),
        (50, None, {20, 30, 40, 50}, 30),
        (60, 0.5, {30, 40, 60}, 60),
        (70, 0.2, {30, 40, 60, 70}, 60),
        (80, nan, {30, 40, 60, 80}, 60),
        (90, 0.4, {30, 60, 90}, 60),
        (100, 0.9, {30, 60, 100}, 100),
        (110, None, {30, 60, 100, 110}, 100),
    ]
    tree = {"x": jnp.arange(3)}
    for part in (history[:6], history[6:]):  # opened again half-way: the metrics are then read from disk
        with Checkpoints(tmp_path, keep_best=3) as checkpoints:
            for step, accuracy, kept, best in part:
                metrics = None if accuracy is None else {"loss": 1.0, "accuracy": accuracy}
                checkpoints.save(step, tree, metrics=metrics, identity={})
                checkpoints.wait()
                assert steps_on_disk(tmp_path) == kept == set(checkpoints.steps()), step
                assert (checkpoints.latest_step(), checkpoints.best_step()) == (step, best)


def test_the_best_by_reward_where_there_is_one(tmp_path):
    with Checkpoints(tmp_path, keep_best=1) as checkpoints:
        for step, reward in enumerate([2.0, 3.0, 1.0]):
            checkpoints.save(step, {"x": jnp.ones(1)}, metrics={"reward": reward, "accuracy": -reward}, identity={})
        assert (checkpoints.best_step(), checkpoints.steps()) == (1, [1, 2])
    with pytest.raises(ValueError, match="keep_best = 0"):
        Checkpoints(tmp_path, keep_best=0)


def test_saving_a_step_again_leaves_it_as_it_is(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for value in (1.0, 2.0):
            checkpoints.save(5, {"x": jnp.float32(value)}, metrics={"accuracy": value}, identity={"value": value})
        assert checkpoints.restore(5, {"x": jax.ShapeDtypeStruct((), jnp.float32)})["x"] == 1.0
        assert checkpoints.read(5) == ({"accuracy": 1.0}, {"value": 1.0})


def test_a_tree_of_another_model_is_one_error_with_every_path(tmp_path):
    state = train_state()
    other = abstract(state)
    del other["trainable"]["lora"]
    other["trainable"]["head"]["scale"] = jax.ShapeDtypeStruct((8,), jnp.float32)
    other["trainable"]["head"]["bias"] = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    other["step"] = jax.ShapeDtypeStruct((), jnp.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, metrics=None, identity={})
        with pytest.raises(ValueError, match="checkpoint 7 in .* is not of this model and optimizer") as error:
            checkpoints.restore(7, other)
    assert set(str(error.value).splitlines()[1:-1]) == {
        "  unexpected: trainable/lora/0 bfloat16[64,8]",
        "  missing: trainable/head/scale float32[8]",
        "  trainable/head/bias: saved float32[64,8], expected float32[8,64]",
        "  step: saved int32[], expected float32[]",
    }


def test_a_part_is_restored_without_reading_the_rest(tmp_path):
    state = train_state()
    part = {name: state[name] for name in ("trainable", "step")}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, metrics=None, identity={})
        assert_same_bits(checkpoints.restore_part(7, abstract(part)), part)
        del part["trainable"]["head"]
        with pytest.raises(ValueError, match="unexpected: trainable/head/bias"):
            checkpoints.restore_part(7, abstract(part))
        with pytest.raises(ValueError, match="missing: rl"):
            checkpoints.restore_part(7, {"rl": 0})


def test_what_json_or_a_path_cannot_say_is_an_error_at_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match="PosixPath is not JSON"):
            checkpoints.save(1, {"x": jnp.ones(1)}, metrics=None, identity={"base": tmp_path})
        with pytest.raises(ValueError, match="one path"):
            checkpoints.save(1, {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, metrics=None, identity={})
        assert checkpoints.steps() == []


def test_what_happens_to_the_arrays_after_save_does_not_reach_the_disk(tmp_path):
    @jax.jit(donate_argnums=0)
    def update(tree):
        return jax.tree.map(lambda x: x + 1, tree)

    tree = {name: jnp.full((1024, 1024), -1.0, jnp.float32) for name in "abcdefgh"}
    counter = np.zeros(1, np.int64)
    with Checkpoints(tmp_path, keep_best=5) as checkpoints:
        for step in range(5):
            old, tree = tree, update(tree)
            # Donated, and overwritten, unless the save still reads it: the runtime then copies.
            assert old["a"].is_deleted() or step > 0
            counter[:] = step
            checkpoints.save(step, tree | {"counter": counter}, metrics={"accuracy": step}, identity={})
        tree, counter[:] = update(tree), -1
        for step in range(5):
            restored = checkpoints.restore(step, abstract(tree) | {"counter": np.zeros(1, np.int64)})
            assert all((value == step).all() for value in restored.values()), step


def test_a_full_disk_is_an_error_and_harms_nothing(tmp_path):
    noise = jnp.asarray(np.random.default_rng(0).random(2**20, np.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(1)}, metrics=None, identity={})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            checkpoints.save(2, {"x": noise}, metrics=None, identity={})
            with pytest.raises(Exception, match="File too large"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert checkpoints.restore(1, {"x": jax.ShapeDtypeStruct((1,), jnp.float32)})["x"] == 1


def test_orbax_says_nothing_below_warning(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="absl"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(1)}, metrics=None, identity={})
        checkpoints.restore(1, {"x": jax.ShapeDtypeStruct((1,), jnp.float32)})
        logging.getLogger("absl").info("ours")
    assert [record.getMessage() for record in caplog.records if record.name == "absl"] == ["ours"]


def test_part_of_a_removed_checkpoint_is_not_a_checkpoint(tmp_path):
    tree = {"x": jnp.arange(4)}
    tmp_path, first = tmp_path / "checkpoints", tmp_path / "first"
    with Checkpoints(tmp_path, keep_best=1) as checkpoints:
        for step, accuracy in ((1, 0.1), (2, 0.2)):
            checkpoints.save(step, tree, metrics={"accuracy": accuracy}, identity={})
            checkpoints.wait()
            if step == 1:
                shutil.copytree(tmp_path / "1", first)
        checkpoints.save(3, tree, metrics=None, identity={})
    # As a kill in the middle of its removal leaves it: with one of its parts gone, or all of them.
    for gone in [path.name for path in first.iterdir()] + ["*"]:
        shutil.copytree(first, tmp_path / "1", ignore=shutil.ignore_patterns(gone))
        with Checkpoints(tmp_path, keep_best=1) as checkpoints:
            assert (checkpoints.steps(), checkpoints.latest_step(), checkpoints.best_step()) == ([2, 3], 3, 2)
        shutil.rmtree(tmp_path / "1")
    shutil.copytree(first, tmp_path / "1", ignore=shutil.ignore_patterns("state"))
    with Checkpoints(tmp_path, keep_best=1) as checkpoints:
        checkpoints.save(4, tree, metrics=None, identity={})
    assert steps_on_disk(tmp_path) == {2, 4}


def test_a_reader_counts_what_the_run_keeps(tmp_path):
    """A checkpoint that a kill left half removed is none, also where the run keeps fewer than others do."""
    (tmp_path / "config.json").write_text('{"keep_checkpoints": 1}', encoding="utf-8")
    folder = tmp_path / "cot" / "checkpoints"
    with Checkpoints(folder, keep_best=2) as checkpoints:
        for step, accuracy in ((1, 0.1), (2, 0.2)):
            checkpoints.save(step, {"x": jnp.arange(4)}, metrics={"accuracy": accuracy}, identity={})
    shutil.rmtree(folder / "1" / "state")
    (folder / "1" / "identity").exists() and shutil.rmtree(folder / "1" / "identity")
    with open_checkpoints(tmp_path / "cot") as checkpoints:
        assert (checkpoints.steps(), checkpoints.best_step()) == ([2], 2)


def test_a_damaged_checkpoint_is_an_error_that_names_its_folder(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(1)}, metrics=None, identity={})
        checkpoints.wait()
        (tmp_path / "1" / "state" / "_METADATA").write_text("{")
        with pytest.raises(ValueError, match=rf"{tmp_path}/1 is damaged"):
            checkpoints.restore(1, {"x": jax.ShapeDtypeStruct((1,), jnp.float32)})


def run_python(source, *arguments, devices=1):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
    }
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


RESTORE_ON_EIGHT_DEVICES = """
import json, pathlib, sys, jax, jax.numpy as jnp
from colar_jax.training.checkpoints import Checkpoints
mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = jax.NamedSharding(mesh, jax.P("fsdp"))
with Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
    x = checkpoints.restore(1, {"x": jax.ShapeDtypeStruct((16, 2), jnp.float32, sharding=sharding)})["x"]
    assert x.sharding == sharding
    print(json.dumps([shard.data.tolist() for shard in x.addressable_shards]))
"""


def test_one_device_saves_and_eight_restore(tmp_path):
    x = np.arange(32, dtype=np.float32).reshape(16, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.asarray(x)}, metrics=None, identity={})
    with run_python(RESTORE_ON_EIGHT_DEVICES, tmp_path, devices=8) as process:
        assert json.loads(process.stdout.read()) == [shard.tolist() for shard in np.split(x, 8)]


SAVE_WHERE_A_FILE_IS = """
import pathlib, sys, jax.numpy as jnp
from colar_jax.training.checkpoints import Checkpoints
folder = pathlib.Path(sys.argv[1])
with Checkpoints(folder) as checkpoints:
    checkpoints.save(1, {"x": jnp.ones(1)}, metrics=None, identity={})
    checkpoints.wait()
    folder.rename(folder.with_suffix(".aside"))
    folder.write_text("in the way")
    try:
        checkpoints.save(2, {"x": jnp.ones(1)}, metrics=None, identity={})
        checkpoints.wait()
    except OSError:
        print("OSError")
"""


def test_a_process_whose_save_failed_ends(tmp_path):
    with run_python(SAVE_WHERE_A_FILE_IS, tmp_path / "checkpoints") as process:
        try:
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (output.strip(), process.returncode) == ("OSError", 0)


SAVE_FOR_EVER = """
import itertools, pathlib, sys, jax, numpy as np
from colar_jax.training.checkpoints import Checkpoints
with Checkpoints(pathlib.Path(sys.argv[1]), keep_best=1) as checkpoints:
    for step in itertools.count((checkpoints.latest_step() or 0) + 1):
        x = jax.device_put(np.random.default_rng(step).random((4, 2**20), np.float32))
        checkpoints.save(step, {"x": x, "step": step}, metrics={"accuracy": -step}, identity={"step": step})
        print("started", step, flush=True)
        checkpoints.wait()
        print("finished", step, flush=True)
"""


@pytest.mark.slow
def test_kill_in_mid_save_leaves_every_finished_checkpoint_whole(tmp_path):
    abstract_tree = {"x": jax.ShapeDtypeStruct((4, 2**20), jnp.float32), "step": 0}
    num_unfinished = 0
    for seconds in (0.0, 0.005, 0.02, 0.06):
        with run_python(SAVE_FOR_EVER, tmp_path) as process:
            finished, saving = 0, 0
            while finished < 1 or saving <= finished:  # killed in a save that follows a finished one
                event, step = process.stdout.readline().split()
                finished, saving = (int(step), saving) if event == "finished" else (finished, int(step))
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        unfinished = [path for path in tmp_path.iterdir() if not path.name.isdigit()]
        num_unfinished += len(unfinished)
        with Checkpoints(tmp_path, keep_best=1) as checkpoints:
            assert checkpoints.latest_step() >= finished and checkpoints.best_step() == 1
            for step in checkpoints.steps():
                x = jax.device_put(np.random.default_rng(step).random((4, 2**20), np.float32))
                assert_same_bits(checkpoints.restore(step, abstract_tree), {"x": x, "step": step})
                assert checkpoints.read(step) == ({"accuracy": -step}, {"step": step})
        assert all(path.exists() for path in unfinished), "reading removed what another process may be writing"
    assert num_unfinished > 0, "no kill was in mid-save: the test proves nothing"
    with Checkpoints(tmp_path, keep_best=1) as checkpoints:
        last = checkpoints.latest_step() + 10
        checkpoints.save(last, {"x": jnp.ones(1)}, metrics=None, identity={})
    assert {path.name for path in tmp_path.iterdir()} == {"1", str(last)}


def test_a_step_that_was_saved_without_a_metric_gets_one(tmp_path):
    """It may be the best then. The checkpoint stays as it is: nothing is written that a kill could cut short."""
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, keep_best=1) as checkpoints:
        checkpoints.save(1, {"w": np.ones(2)}, metrics={"accuracy": 0.5}, identity={})
        checkpoints.save(2, {"w": np.full(2, 2.0)}, metrics=None, identity={"owes": True})
        assert checkpoints.best_step() == 1
        saved_at = checkpoints.saved_at(2)
        assert checkpoints.read(2) == ({}, {"owes": True})
        checkpoints.add_metrics(2, {"accuracy": 0.9})
        assert checkpoints.read(2) == ({"accuracy": 0.9}, {"owes": True}) and checkpoints.best_step() == 2
    with Checkpoints(folder, keep_best=1) as checkpoints:
        assert checkpoints.best_step() == 2 and checkpoints.saved_at(2) == saved_at
        checkpoints.save(3, {"w": np.ones(2)}, metrics={"accuracy": 0.7}, identity={})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3] and checkpoints.best_step() == 2
    late = tmp_path / "late_metrics.json"
    for of_another in (late.read_text().replace(str(saved_at), "7"), "{", "[]", '{"2": 3}'):
        late.write_text(of_another)
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.best_step() == 3 and checkpoints.steps() == [3]


@pytest.mark.parametrize("lost", ["_CHECKPOINT_METADATA", "metrics", "state", "*"])
def test_a_metric_that_comes_late_removes_what_is_kept_no_more(tmp_path, lost):
    """Also of what a kill has removed in part; and the next save finds the folder as it is."""
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, keep_best=2) as checkpoints:
        for step, accuracy in {1: 0.1, 2: 0.2, 3: 0.3}.items():
            checkpoints.save(step, {"w": np.ones(2)}, metrics={"accuracy": accuracy}, identity={})
        checkpoints.wait()
        shutil.copytree(folder / "2", folder / "1")
        for path in (folder / "1").glob(lost):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        checkpoints.save(4, {"w": np.ones(2)}, metrics=None, identity={})
    with Checkpoints(folder, keep_best=2) as checkpoints:
        assert checkpoints.steps() == [2, 3, 4]
        checkpoints.add_metrics(4, {"accuracy": 0.4})
        assert checkpoints.steps() == [3, 4]
        checkpoints.save(5, {"w": np.ones(2)}, metrics={"accuracy": 0.0}, identity={})
    assert {path.name for path in folder.iterdir()} == {"3", "4", "5"}
