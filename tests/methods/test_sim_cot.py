"""SIM-CoT: what the decoder reads and writes, where its gradients go, and that decoding knows nothing of it."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx, traverse_util
from pico_thoughts import COMPUTE, EOS, SEPARATOR, VOCABULARY, problems
from pipeline.tiny import tiny_config_dict

from colar_jax.config import DecodeConfig, resolve, stage_defaults
from colar_jax.exchange.folder import export_stage
from colar_jax.methods.coconut import Coconut
from colar_jax.methods.codi import Codi
from colar_jax.methods.colar import Colar
from colar_jax.methods.sim_cot import SimCoconut, SimCodi, SimColar
from colar_jax.methods.thinking.spelling import STEP_DECODER, Spelled, fill_spelling, spelling_loss, spread_of_latents
from colar_jax.model.latent_head import Gaussian, LatentHeadConfig
from colar_jax.model.lora import LoraConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build, with_copies
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import finished_parameters, start_parameters
from colar_jax.runs.sweep.sweep import sweep

ENCODED = problems(30)
ENCODED = dataclasses.replace(ENCODED, tails=dict.fromkeys(("auto", "1", "2", "5"), ENCODED.tails["auto"]))
HOSTS = {
    "coconut": Coconut(num_stages=3, latents_per_stage=2, epochs_per_stage=0.5),
    "codi": Codi(num_latents=1, projection_size=16),
    "colar": Colar(speeds="2,5"),
}
METHODS = {
    name: kind(**{field.name: getattr(HOSTS[name], field.name) for field in dataclasses.fields(HOSTS[name])})
    for name, kind in (("coconut", SimCoconut), ("codi", SimCodi), ("colar", SimColar))
}


@functools.cache
def model(name: str):
    """Graph and parameters; of the decoder others than the base's."""
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(llama, LatentHeadConfig(24), 0, modules=METHODS[name].modules)
    rng = np.random.default_rng(0)

    def larger(path, leaf):
        shift = 1.0 if path[-1] in ("scale", "norm_scale", "embed_std") else 0.0
        fan_in = leaf.shape[-2] if path[-1] == "kernel" else llama.hidden_size
        return (shift + 0.7 * rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    flat = traverse_util.flatten_dict(parameters)
    return graph, traverse_util.unflatten_dict({path: larger(path, leaf) for path, leaf in sorted(flat.items())})


def merged(name: str, parameters=None):
    graph, own = model(name)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, own if parameters is None else parameters))


@functools.cache
def loader(name: str):
    return METHODS[name].make_loader(ENCODED, seed=0, rows=2, row_positions=150)


def texts_of(batch, row: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Of each text of a row: the numbers of its latents, the tokens that are read, and those that are written."""
    num_latents = batch.spelled_segments_BZ.shape[1] - batch.spelled_ids_BY.shape[1]
    texts = []
    for segment in range(1, batch.spelled_segments_BZ[row].max() + 1):
        places = np.flatnonzero(batch.spelled_segments_BZ[row] == segment)
        np.testing.assert_array_equal(batch.spelled_positions_BZ[row, places], np.arange(len(places)))
        latents, tokens = places[places < num_latents], places[places >= num_latents] - num_latents
        labels = batch.spelled_labels_BZ[row, places]
        assert (labels[: len(latents) - 1] == -1).all()
        weights = batch.spelled_weights_BZ[row, places]
        assert weights.sum() == pytest.approx(1) and ((weights > 0) == (labels >= 0)).all()
        texts.append(
            (latents.tolist(), batch.spelled_ids_BY[row, tokens].tolist(), labels[len(latents) - 1 :].tolist())
        )
    return texts


def joined(lists) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def steps_of(example: int) -> list[list[int]]:
    return [part.tolist() for part in np.split(ENCODED.steps[example], ENCODED.step_starts[example][1:])]


@pytest.mark.parametrize("lora", [None, LoraConfig(2, 4.0, ("query", "up"))])
def test_the_decoder_begins_as_the_weights_of_the_start_and_beside_adapters_as_their_base(lora):
    llama, modules = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY), METHODS["codi"].modules
    _, parameters = build(llama, LatentHeadConfig(24), 0, lora, modules)
    trained = jax.tree.map(lambda leaf: leaf + 0.5, parameters)  # by a stage before, adapters with the others
    flat = traverse_util.flatten_dict(with_copies(trained, modules, [STEP_DECODER]))
    copied = {path[1:]: leaf for path, leaf in flat.items() if path[0] == STEP_DECODER}
    source = {path[1:]: leaf for path, leaf in flat.items() if path[0] == "llama"}
    assert source.keys() - copied.keys() == {path for path in source if "adapter" in path}
    assert bool(source.keys() - copied.keys()) is (lora is not None)
    for path, leaf in copied.items():
        np.testing.assert_array_equal(leaf, source[path], err_msg=str(path))
        assert leaf is not source[path]


@pytest.mark.parametrize("name", ["coconut", "codi"])
@pytest.mark.parametrize("late", [0, 1, 10])
def test_each_latent_is_read_as_its_own_step(name, late):
    step = late * loader(name).steps_per_epoch // 2
    batch, room = loader(name).batch(step), loader(name)._plan(0).shape[2]
    rests = 0
    for row, dealt in enumerate(loader(name)._rows(step)):
        expected = {}
        for slot, one in enumerate(dealt):
            steps, answer = steps_of(one.example), ENCODED.answers[one.example][:-1].tolist()
            if name == "codi":
                steps = steps[:-1]  # the teacher's
                groups = [steps[0], joined(steps[1:])] if len(steps) > 2 else steps
                of_latents = [[k] for k in range(len(groups))]
            else:
                stage = one.num_latents // 2
                groups = [steps[k] if k < len(steps) else answer for k in range(stage)]
                if one.removed == len(ENCODED.steps[one.example]) and stage <= len(steps):
                    groups[-1] = joined(steps[stage - 1 :])
                of_latents = [[2 * k, 2 * k + 1] for k in range(stage)]
            rests += len(steps) > len(groups)
            for latents, group in zip(of_latents, groups, strict=True):
                expected[tuple(number * room + slot for number in latents)] = group
        found = texts_of(batch, row)
        assert {tuple(latents): ids for latents, ids, _ in found} == expected
        assert all(written == [*ids, EOS] for _, ids, written in found)
    assert rests or late == 0


def test_a_predicted_latent_is_read_as_its_group():
    batch = loader("colar").batch(3)
    assert batch.num_examples > 2
    for row in range(2):
        found = texts_of(batch, row)
        written = joined(ids for _, ids, _ in found)
        mask, labels = batch.latent_mask_BM[row], batch.label_ids_BM[row]
        assert len(found) == mask.sum() - (labels[mask] == SEPARATOR).sum()
        for (number,), ids, following in found:
            assert labels[number] in ids and following == [*ids, EOS]  # the label is drawn from the group
        of_row = [example for example in range(len(ENCODED)) if _has(batch, row, ENCODED.heads[example])]
        assert len(written) == sum(len(ENCODED.steps[example]) for example in of_row)


def _has(batch, row: int, part) -> bool:
    ids = batch.token_ids_BT[row].tolist()
    return any(ids[at : at + len(part)] == part.tolist() for at in range(len(ids) - len(part) + 1))


def test_a_text_without_room_is_left_out():
    texts = [[Spelled([0], np.array([5, 6, 7])), Spelled([1], np.array([8, 9]))]]
    fields = fill_spelling(texts, num_latents=2, num_tokens=4, eos_id=EOS)
    assert fields["spelled_segments_BZ"].tolist() == [[1, 0, 1, 1, 1, 0]]
    assert fields["spelled_labels_BZ"].tolist() == [[5, -1, 6, 7, EOS, -1]]


def objective(name: str, method, batch):
    def loss(parameters):
        keys = jax.random.split(jax.random.key(0), len(batch.row_ids_B))
        return method.objective(merged(name, parameters), batch, keys, method.count(batch), COMPUTE)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(jax.tree.map(jnp.asarray, model(name)[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", fast(list(METHODS), "colar"))
def test_the_hosts_loss_and_the_decoders(name):
    """The rest is the host's to the last bit; the decoder's loss reaches the base through the latents."""
    batch = jax.tree.map(jnp.asarray, loader(name).batch(2))
    method = METHODS[name]
    (loss, metrics), gradients = objective(name, method, batch)
    (of_host, host_metrics), _ = objective(name, HOSTS[name], batch)
    for key, metric in host_metrics.items():
        assert float(metrics[key].sum) == pytest.approx(float(metric.sum), rel=1e-5), key
    spelling = metrics["spelling_loss"]
    assert float(loss) == pytest.approx(float(of_host) + float(spelling.sum) / float(spelling.count), rel=1e-5)
    only = dataclasses.replace(method, spelling_weight=2.0)
    (_, _), more = objective(name, only, batch)
    difference = jax.tree.map(lambda a, b: np.asarray(a - b), more, gradients)
    for part in ("llama", "step_decoder"):
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(difference[part]["blocks"])), part


def test_a_predicted_latent_is_read_as_it_is_drawn_and_fed():
    """Mean and noise of its standard deviation, in the scale of embeddings."""
    rng, batch = np.random.default_rng(0), jax.tree.map(jnp.asarray, loader("colar").batch(2))
    method, (graph, parameters) = METHODS["colar"], model("colar")
    mean, noise = (rng.normal(size=(*batch.supervised_BM.shape, 32)).astype(np.float32) for _ in range(2))
    std, scale = np.exp(0.3 * rng.normal(size=mean.shape)).astype(np.float32), np.float32(0.4)
    parameters = parameters | {"latent_head": parameters["latent_head"] | {"embed_std": scale}}
    counts = method.count(batch)

    @jax.jit
    def losses(predicted, latents):
        own = nnx.merge(graph, jax.tree.map(jnp.asarray, parameters))
        actual = method.further_loss(own, predicted, jnp.asarray(noise), batch, counts, COMPUTE)
        return actual, spelling_loss(own, latents, batch, counts.texts, COMPUTE)

    (loss, metrics), (expected, of_latents) = losses(Gaussian(mean, std), (mean + std * noise) * scale)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["spelling_loss"].sum) == pytest.approx(float(of_latents["spelling_loss"].sum), rel=1e-5)


def test_the_decoder_of_a_step_is_blind_to_the_others():
    batch = jax.tree.map(jnp.asarray, loader("codi").batch(2))
    num_latents = batch.spelled_segments_BZ.shape[1] - batch.spelled_ids_BY.shape[1]
    latents = np.random.default_rng(0).normal(size=(2, num_latents, 32)).astype(np.float32)
    first = np.asarray(batch.spelled_segments_BZ[:, :num_latents]) == 1
    only_first = jnp.where(batch.spelled_segments_BZ == 1, batch.spelled_labels_BZ, -1)
    batch = dataclasses.replace(batch, spelled_labels_BZ=only_first)

    @jax.jit
    def loss(latents):
        return spelling_loss(merged("codi"), latents, batch, 1, COMPUTE)[0]

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(latents)))
    assert (np.abs(gradient[first]).max(axis=-1) > 0).all() and (gradient[~first] == 0).all()


def test_texts_that_are_not_there_add_nothing():
    nothing = fill_spelling([[]], num_latents=2, num_tokens=4, eos_id=EOS)
    spelling = type("Spelling", (), {name: jnp.asarray(leaf) for name, leaf in nothing.items()})
    loss, metrics = spelling_loss(merged("codi"), jnp.ones((1, 2, 32)), spelling, 1, COMPUTE)
    assert float(loss) == 0 and int(metrics["spelling_loss"].count) == 0


def test_the_distance_of_latents():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(1, 3, 2, 32)).astype(np.float32)
    spread = spread_of_latents(merged("codi"), jnp.asarray(latents), jnp.array([[3, 2]]))
    apart = [
        np.linalg.norm(latents[0, i, e] - latents[0, j, e]) for i, j, e in ((0, 1, 0), (0, 2, 0), (1, 2, 0), (0, 1, 1))
    ]
    distance = spread["latent_distance"]
    assert float(distance.sum / distance.count) == pytest.approx(np.mean(apart), rel=1e-5)
    alike = spread_of_latents(merged("codi"), jnp.ones((1, 3, 2, 32)), jnp.array([[3, 3]]))
    assert float(alike["latent_distance"].sum) == 0
    assert float(spread["latent_from_center"].count) == 5


@pytest.mark.parametrize("name", list(METHODS))
def test_decoding_is_the_hosts(name):
    ours, hosts = (kind[name].thinking(DecodeConfig(), SEPARATOR, greedy=True) for kind in (METHODS, HOSTS))
    for field in ("max_thoughts", "min_thoughts", "in_words", "way"):
        assert getattr(ours, field) == getattr(hosts, field)
    assert ours.think.__code__ is hosts.think.__code__


@pytest.mark.slow
def test_it_trains_from_a_copy_and_is_exported_as_its_host(tmp_path):
    config = tiny_config_dict(tmp_path / "run", run="cot,sim")
    for stage, method in (("cot", "cot"), ("sim", "sim_codi")):
        config.stages[stage] = stage_defaults(method=method, steps=2, rows=2, row_positions=200, log_every=1)
    config.stages.sim.sim_codi.update(num_latents=2, projection_size=8)
    config.eval.seeds = 0
    pipeline.train(resolve(config))
    run = prepare(resolve(config))
    cot = finished_parameters(run, run.workdir / "cot")
    flat = traverse_util.flatten_dict(cot["step_decoder"])
    llama = traverse_util.flatten_dict(cot["llama"])
    assert all((leaf == llama[path]).all() for path, leaf in flat.items())  # what `sim` started from
    trained = finished_parameters(run, run.workdir / "sim")
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), trained["step_decoder"], cot["step_decoder"])
    assert all(jax.tree.leaves(changed))
    to_look_at = prepare(resolve(config), sets="none", for_training=False)
    held = finished_parameters(to_look_at, run.workdir / "sim")
    assert "step_decoder" not in held and "step_decoder" not in to_look_at.shapes  # nothing but training holds it
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), held["llama"], trained["llama"]))
    assert [result.stage for result in sweep([resolve(config)])] == ["cot", "sim"]
    folder = export_stage(to_look_at, "sim", tmp_path / "out")
    assert {path.name for path in folder.glob("*.safetensors")} == {"model.safetensors", "projection.safetensors"}
    other = tiny_config_dict(tmp_path / "other", run="codi")
    other.stages.codi = stage_defaults(method="codi", init_from=str(run.workdir / "sim"))
    other.stages.codi.codi.update(num_latents=2, projection_size=8)
    started = start_parameters(prepare(resolve(other)), "codi")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), started["projection"], trained["projection"]))
    pipeline.train(resolve(config))  # goes on from its own checkpoint: there is nothing to do
