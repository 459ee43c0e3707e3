"""A damaged checkpoint is one line that names its folder and the way on; or what is read is what was saved."""

import os
import pathlib
import random
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colar_jax.errors import UserError
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.checksums import sums_of

TREE = {
    "parameters": {"w": jnp.asarray(np.random.default_rng(0).random((64, 32), np.float32)), "b": jnp.arange(7)},
    "step": jnp.int32(4),
}
METRICS, IDENTITY = {"accuracy": 0.53125}, {"stage.method": "colar", "seed": 17}
STEPS = (2, 4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in STEPS:
            checkpoints.save(step, TREE, metrics=METRICS, identity=IDENTITY)
    return folder


def read_all(folder: pathlib.Path, step: int):
    """All that anybody reads of a checkpoint."""
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), TREE)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.best_step() is not None
        metrics, identity = checkpoints.read(step)
        tree = checkpoints.restore(step, abstract)
        part = checkpoints.restore_part(step, {"parameters": abstract["parameters"]})
    return metrics, identity, tree, part


def assert_whole(folder: pathlib.Path, step: int) -> None:
    metrics, identity, tree, part = read_all(folder, step)
    assert (metrics, identity) == (METRICS, IDENTITY)
    for a, b in zip(
        jax.tree.leaves((tree, part)), jax.tree.leaves((TREE, {"parameters": TREE["parameters"]})), strict=True
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def data_file(folder: pathlib.Path) -> pathlib.Path:
    """The file with the arrays."""
    return max(folder.rglob("ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)


def damage(path: pathlib.Path, how: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
        return
    if how == "empty":
        content = bytearray()
    elif how == "truncate":
        content = content[: rng.randrange(len(content) + 1)]
    elif how == "overwrite" and content:
        start, size = rng.randrange(len(content)), rng.choice((1, 4, 16, 100))
        content[start : start + size] = rng.randbytes(min(size, len(content) - start))
    elif how == "grow":
        content += rng.randbytes(16)
    path.write_bytes(bytes(content))


NAMED = [
    ("_CHECKPOINT_METADATA", "delete"),
    ("_CHECKPOINT_METADATA", "empty"),
    ("metrics/metrics", "empty"),
    ("_CHECKPOINT_METADATA", "rename a key"),
    ("state/_METADATA", "delete"),
    ("state/_METADATA", "truncate"),
    ("state", "remove"),
    ("", "empty folder"),
    ("data", "overwrite"),
    ("data", "truncate"),
    ("data", "delete"),
]


@pytest.mark.parametrize(("name", "how"), NAMED)
def test_damage_is_one_line(tmp_path, saved, name, how):
    folder = pathlib.Path(shutil.copytree(saved, tmp_path / "copy"))
    path = data_file(folder / "4") if name == "data" else folder / "4" / name
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir(exist_ok=True) if how == "empty folder" else None
    elif how == "rename a key":  # JSON still, and nothing that Orbax opens
        path.write_text(path.read_text().replace("init_timestamp_nsecs", "init_ti'estamp_nsecs"))
    elif how == "overwrite":
        content = bytearray(path.read_bytes())
        content[3000:3016] = bytes(16)
        path.write_bytes(bytes(content))
    else:
        damage(path, how, random.Random(0))
    with pytest.raises(UserError) as error:
        read_all(folder, 4)
    assert str(error.value) == f"{folder}/4 is damaged; remove that folder, and training goes on from step 2"
    shutil.rmtree(folder / "4")
    assert_whole(folder, 2)


def test_a_lone_damaged_checkpoint(tmp_path, saved):
    shutil.copytree(saved / "4", tmp_path / "4")
    (tmp_path / "4" / "_CHECKPOINT_METADATA").write_text("[1]")
    with pytest.raises(UserError, match="/4 is damaged; remove that folder, and the stage starts anew"):
        read_all(tmp_path, 4)


OF_A_PEER = [
    ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:18829"),
    jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"),
    AssertionError("sync_global_devices name mismatch ('labelled'). Expected: [1 2]; got: 2."),
]


def be_one_of_two(monkeypatch, error: Exception) -> list[pathlib.Path]:
    """Of two processes, one for whom to open or to read ends with an error; the folders that it opens."""
    opened = []

    def failing(self, folder, **options):
        opened.append(folder)
        raise error

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(Checkpoints, "_open", failing)
    return opened


@pytest.mark.parametrize("error", OF_A_PEER, ids=["closed", "lost", "elsewhere"])
def test_a_process_that_is_lost_while_checkpoints_are_opened_is_no_damage(saved, monkeypatch, error):
    """To open them is a collective; the advice to remove a checkpoint would cost a good one."""
    opened = be_one_of_two(monkeypatch, error)
    with pytest.raises(type(error)) as raised:
        Checkpoints(saved)
    assert raised.value is error and opened == [saved]


@pytest.mark.parametrize("error", OF_A_PEER, ids=["closed", "lost", "elsewhere"])
def test_a_process_that_is_lost_while_a_checkpoint_is_read_is_no_damage(saved, monkeypatch, error):
    with Checkpoints(saved) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: 2)
        with pytest.raises(type(error)), checkpoints._reading(4):
            raise error


def test_several_processes_look_for_damage_in_no_step_alone(saved, monkeypatch):
    """One that does would wait for the others, who may not have met the damage."""
    opened = be_one_of_two(monkeypatch, TypeError("'NoneType' object is not subscriptable"))
    with pytest.raises(UserError, match="one of its checkpoints is damaged; the same command as one process says"):
        Checkpoints(saved)
    assert opened == [saved]


def test_a_checkpoint_without_checksums_is_read(tmp_path, saved):
    """As those of earlier versions are."""
    folder = pathlib.Path(shutil.copytree(saved, tmp_path / "copy"))
    for path in folder.glob("*/_CHECKPOINT_METADATA"):
        text = path.read_text()
        path.write_text(text.replace('"sums"', '"unread"').replace('"digest"', '"not read"'))
    assert_whole(folder, 4)


@settings(max_examples=int(os.environ.get("COLAR_FUZZ_EXAMPLES", "8")), deadline=None)
@given(seed=st.integers(0, 2**32), how=st.sampled_from(["delete", "empty", "truncate", "overwrite", "grow"]))
def test_any_damage_is_said_or_harmless(saved, tmp_path_factory, seed, how):
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("fuzz") / "copy"
    shutil.copytree(saved, folder)
    for _ in range(rng.choice((1, 1, 2))):
        damage(folder / "4" / rng.choice(files_of(folder / "4")), how, rng)
    message = ""
    try:
        assert_whole(folder, 4)
    except UserError as error:
        message = str(error)
    assert not message or (message.startswith(f"{folder}/4 is damaged; ") and "\n" not in message)
    shutil.rmtree(folder.parent)


def test_sums_do_not_depend_on_shards():
    leaf = jnp.asarray(np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32))
    assert sums_of({"a": leaf}) == sums_of({"a": np.asarray(leaf)})
    for value in (jnp.arange(7, dtype=jnp.bfloat16), jnp.ones(5, bool), np.int64(-3), jnp.zeros((0, 3)), np.float64(2)):
        (total,) = sums_of({"a": value}).values()
        assert 0 <= total < 2**32


READ = """
import pathlib, sys, jax
from colar_jax.errors import UserError
from colar_jax.training.checkpoints import Checkpoints
try:
    with Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
        metadata = checkpoints._metadata(4).metadata
        checkpoints.restore(4, {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in metadata.items()})
except UserError as error:
    print(error)
"""


def test_nothing_else_is_printed(tmp_path, saved):
    """Cut data makes hundreds of lines in the libraries under it."""
    folder = pathlib.Path(shutil.copytree(saved, tmp_path / "copy"))
    path = data_file(folder / "4")
    path.write_bytes(path.read_bytes()[:1000])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.count("\n") == 1 and "is damaged" in done.stdout and done.stderr == "", done.stderr[-2000:]
