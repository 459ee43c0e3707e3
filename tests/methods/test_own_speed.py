"""A model that chooses its own speed: its labels, its choice in a decode, and a whole stage."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from model.told_model import problems
from pico_model import COMPUTE, SEPARATOR, VOCABULARY
from pipeline.tiny import tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.encoding import Prompt, encode
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.engine import Engine
from colar_jax.errors import UserError
from colar_jax.evaluation.evaluator import Evaluator, Workload
from colar_jax.evaluation.inspector import Inspector
from colar_jax.evaluation.judge import Judge
from colar_jax.evaluation.samples import samples_of
from colar_jax.exchange.folder import export_stage
from colar_jax.methods import method
from colar_jax.methods.colar import Colar
from colar_jax.methods.method import decode_limits
from colar_jax.methods.own_speed import OwnSpeed, each_right, fastest_right
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.parallel.mesh import make_mesh
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.speed_labels import RIGHT_FILE
from colar_jax.runs.starts import adopt, default_stage, finished_parameters, stage_named, start_parameters
from colar_jax.runs.sweep.stage_cells import decode_settings
from colar_jax.settings import DecodeConfig
from colar_jax.settings.speeds import NO_NUMBER, OWN_NUMBER

METHOD = OwnSpeed(grid="1,2,4", labels="fastest")
DECODE = DecodeConfig(max_latents=3, min_latents=3, max_answer_tokens=3)
IDS = [
    np.append(np.random.default_rng(n).integers(10, VOCABULARY, n), SEPARATOR).astype(np.int32) for n in range(4, 12)
]


def test_the_label_is_the_fastest_speed_that_was_right():
    right_KN = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 1, 1], [0, 0, 0, 1, 0]], bool)  # speeds 1, 2, 4
    assert fastest_right(right_KN).tolist() == [1, 0, 0, 2, 1]
    assert each_right(right_KN).tolist() == [0b011, 0b001, 0b000, 0b111, 0b010]
    assert METHOD.labels_of(right_KN).tolist() == [1, 0, 0, 2, 1]
    assert OwnSpeed(grid="1,2,4").labels_of(right_KN).tolist() == [3, 1, 0, 7, 2]


@functools.cache
def model(num_tokens: int = VOCABULARY):
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=num_tokens)
    graph, parameters = build(llama, LatentHeadConfig(24), 0, modules=METHOD.modules)
    rng = np.random.default_rng(0)
    return graph, jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), parameters)


def decoded(numbers, **changes):
    thinking = METHOD.thinking(DECODE, SEPARATOR, greedy=True)
    asked = dataclasses.replace(DECODE, **changes)
    limits = decode_limits(thinking, asked, separator_id=SEPARATOR, eos_id=1, greedy=True)
    packed = pack_prompts(
        [Prompt(ids, number) for ids, number in zip(IDS, numbers, strict=True)],
        shape_for([np.array([len(ids) for ids in IDS])]),
    )
    keys = jax.random.split(jax.random.key(0), len(IDS))
    graph, parameters = model()
    return jax.device_get(
        jax.jit(lambda tree: decode(nnx.merge(graph, tree), packed, keys, thinking.think, limits, COMPUTE))(parameters)
    )


@pytest.mark.slow
def test_a_question_that_asks_for_it_is_told_what_the_model_chose():
    own = decoded([OWN_NUMBER] * len(IDS))
    assert set(own.own_speeds_B) <= {1.0, 2.0, 4.0} and len(set(own.own_speeds_B)) > 1
    told = decoded(own.own_speeds_B)
    np.testing.assert_allclose(own.thoughts, told.thoughts, atol=1e-5)
    assert not told.own_speeds_B.any()
    # Each by itself: the others are told what they are told.
    mixed = decoded([OWN_NUMBER, NO_NUMBER, *[2.0] * (len(IDS) - 2)])
    assert mixed.own_speeds_B.tolist() == [own.own_speeds_B[0], *[0.0] * (len(IDS) - 1)]
    np.testing.assert_allclose(mixed.thoughts[0], own.thoughts[0], atol=1e-5)


@pytest.mark.slow
def test_an_evaluation_says_which_speed_was_chosen():
    tokenizer = load_tokenizer(EMBEDDED)
    said = {METHOD.recipe.told(speed).said for speed in ("auto", 2.0)}
    encoded = encode(generate_problems("test", 4), tokenizer, tuple(said))
    graph, parameters = model(tokenizer.num_tokens)
    of_model = Engine(graph, make_mesh(jax.devices()[:1])), METHOD, Judge(tokenizer), DECODE
    evaluator = Evaluator(*of_model, Workload([encoded], ("auto",), 4))
    of_speed = {speed: evaluator.run(parameters, encoded, speed, seed=None) for speed in ("auto", 2.0)}
    assert set(of_speed["auto"].measured["chosen_speed"]) <= {1.0, 2.0, 4.0}
    assert "chosen_speed" not in of_speed[2.0].measured
    (sample, *_) = samples_of(encoded, of_speed["auto"])
    assert sample["chosen_speed"] == of_speed["auto"].measured["chosen_speed"][0]
    # A chain that is fed again is fed at that speed, whichever question it is given to.
    given = Inspector(*of_model, batch_size=4).thoughts(parameters, encoded, "auto")
    np.testing.assert_array_equal(given.own_speeds_B, of_speed["auto"].measured["chosen_speed"])


def test_certainty_takes_the_fastest_speed_that_is_sure_enough():
    logits = jnp.log(jnp.array([[0.01, 0.04, 0.95], [0.02, 0.18, 0.8], [0.3, 0.3, 0.4], [0.5, 0.3, 0.2]]))
    choice = nnx.merge(*model()).speed_choice
    for certainty, speeds in {0.0: [4, 4, 4, 1], 0.5: [4, 4, 2, 2], 0.9: [4, 2, 1, 1], 0.999: [1, 1, 1, 1]}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(choice), "__call__", lambda self, hidden: hidden)
            assert choice.chosen(logits, certainty).tolist() == speeds


def test_of_each_speed_by_itself_the_fastest_that_is_sure_enough_or_the_surest():
    """A speed at which it is never right does not stand in the way of a faster one."""
    choice = nnx.merge(*model()).speed_choice
    choice.config = dataclasses.replace(choice.config, of_each=True)
    right = jnp.array([[0.99, 0.1, 0.95], [0.99, 0.97, 0.3], [0.6, 0.7, 0.5]])
    for certainty, speeds in {0.0: [1, 1, 2], 0.9: [4, 2, 2], 0.96: [1, 2, 2], 0.4: [4, 2, 4]}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(choice), "__call__", lambda self, hidden: jnp.log(hidden / (1 - hidden)))
            assert choice.chosen(right, certainty).tolist() == speeds


@pytest.mark.parametrize("labels", ["each", "fastest"])
def test_the_loss_is_that_of_its_labels(labels):
    """A step of the head alone, by hand: bits of three speeds, or one of three."""
    own, right_KN = OwnSpeed(grid="1,2,4", labels=labels), np.array([[1, 1, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1]], bool)
    encoded = dataclasses.replace(problems(), speed_labels=own.labels_of(right_KN))
    reasoner = nnx.merge(*model())
    batch = own.make_loader(encoded, seed=0, rows=1, row_positions=60).batch(0)
    loss, _ = own.objective(reasoner, batch, None, method.count(batch), COMPUTE)
    hidden_BMD = method.supervised_hidden(reasoner, method.embed(reasoner, batch, COMPUTE), batch, COMPUTE)
    logits_BMK = np.asarray(reasoner.speed_choice(hidden_BMD))
    expected = []
    for logits_K, label in zip(logits_BMK[0], batch.label_ids_BM[0], strict=True):
        if label < 0:
            continue
        if labels == "fastest":
            expected.append(-jax.nn.log_softmax(logits_K)[label])
        else:
            signs = [1 if label >> k & 1 else -1 for k in range(3)]
            expected.append(np.mean(np.log1p(np.exp(-logits_K * signs))))
    assert len(expected) == 4
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)


@pytest.mark.slow
def test_a_decode_is_as_sure_as_it_is_asked_to_be():
    likeliest, surer = decoded([OWN_NUMBER] * len(IDS)), decoded([OWN_NUMBER] * len(IDS), speed_certainty=0.9)
    assert np.all(surer.own_speeds_B <= likeliest.own_speeds_B) and np.any(surer.own_speeds_B < likeliest.own_speeds_B)
    told = decoded(surer.own_speeds_B)
    np.testing.assert_allclose(surer.thoughts, told.thoughts, atol=1e-5)


def test_what_is_kept_of_other_stages_does_not_depend_on_certainty():
    sure = dataclasses.replace(DECODE, speed_certainty=0.9)
    assert decode_settings(sure, Colar()) == decode_settings(DECODE, METHOD)
    assert decode_settings(sure, METHOD)["speed_certainty"] == 0.9
    assert "speed_certainty" not in decode_settings(DECODE, METHOD)


def own_config(workdir, conditioning="number", timeline="latents"):
    config = tiny_config_dict(workdir, run="cot,colar,auto")
    for name in ("colar", "rl"):
        config.stages[name].latent.update(speeds="1..6", conditioning=conditioning, timeline=timeline)
    config.stages.auto = stage_defaults(method="own_speed", init_from="colar", steps=3, rows=2, log_every=1)
    config.stages.auto.own_speed.update(grid="1,2,4", num_labelled=10, timeline=timeline)
    config.eval.speeds = "2"
    return resolve(config)


@pytest.mark.slow
@pytest.mark.parametrize("timeline", ["latents", "tokens"])
def test_a_stage_labels_trains_and_answers_without_being_told(timeline, tmp_path):
    config = own_config(tmp_path / "run", timeline=timeline)
    results = pipeline.train(config)
    (auto,) = [result for result in results if result.stage == "auto" and result.sampling == "greedy"]
    assert auto.method == "own_speed" and auto.speed == "-"
    (at_two,) = [result for result in results if result.stage == "colar" and result.sampling == "greedy"]
    assert auto.cost.forward_passes >= 1 + 1 + auto.mean_length and at_two.speed == "2"
    assert 1 <= auto.mean_of("chosen_speed") <= 4 and at_two.mean_of("chosen_speed") is None
    right_KN = np.load(tmp_path / "run" / "auto" / RIGHT_FILE)
    assert right_KN.shape == (3, 10)
    pipeline.train(config)  # there is nothing to do
    run = prepare(config)
    assert default_stage(run) == "colar"
    # What the source learned is in the stage's own checkpoint, although the stage does not train it.
    chosen, source = (finished_parameters(run, run.workdir / name) for name in ("auto", "colar"))
    for part in ("llama", "latent_head", "speed"):
        jax.tree.map(np.testing.assert_array_equal, chosen[part], source[part])
    folder = export_stage(prepare(config), "auto", tmp_path / "out")
    assert (folder / "speed_choice.safetensors").is_file() and (folder / "speed_embedding.safetensors").is_file()


@pytest.mark.parametrize("grid", ["2", "2,1", "1,1", "1,auto", ""])
def test_what_is_no_grid(grid):
    with pytest.raises(UserError, match="list at least two numbers that rise"):
        OwnSpeed(grid=grid)


def test_a_choice_that_rewards_teach_has_no_certainty(tmp_path):
    config = tiny_config_dict(tmp_path, run="cot,colar,auto")
    for name in ("colar", "rl"):
        config.stages[name].latent.update(speeds="1..6", conditioning="number")
    config.stages.auto = stage_defaults(method="own_speed", trainer="grpo", init_from="colar", steps=3)
    config.stages.auto.rl.speeds_per_group = 2
    config.decode.speed_certainty = 0.9
    with pytest.raises(
        UserError, match=r"decode.speed_certainty=0.9 with stages.auto, which learns its choice .* rewards"
    ):
        resolve(config)
    config.run = "cot,colar"  # others can be asked with it in the same folder, and that one cannot
    run = prepare(resolve(config))
    with pytest.raises(UserError, match=r"decode.speed_certainty=0.9 with stages.auto"):
        stage_named(run, "auto")
    assert stage_named(run, "colar") == "colar"
    config.eval.stages = "auto"
    with pytest.raises(UserError, match=r"decode.speed_certainty=0.9 with stages.auto"):
        resolve(config)


def test_a_choice_of_other_speeds_is_no_start(tmp_path):
    """The outputs of a choice are of its grid: another of the same size would be read as other speeds."""
    config = tiny_config_dict(tmp_path, run="cot,colar,auto")
    config.stages.colar.latent.update(speeds="1..6", conditioning="number")
    config.stages.rl.latent.update(speeds="1..6", conditioning="number")
    config.stages.auto = stage_defaults(method="own_speed", init_from="colar", steps=3, rows=2)
    config.stages.auto.own_speed.grid = "1,2,4"
    run = prepare(resolve(config))
    adopt(run, "auto", run.initial_parameters())
    del config.stages["auto"]
    config.run = "cot,colar,next"
    for grid in ("1,3,6", "1,2,4"):
        config.stages.next = stage_defaults(
            method="own_speed", trainer="grpo", init_from=str(run.workdir / "auto"), steps=3
        )
        config.stages.next.own_speed.grid = grid
        config.stages.next.rl.speeds_per_group = 2
        other = prepare(resolve(config))
        if grid == "1,2,4":
            start_parameters(other, "next")
        else:
            with pytest.raises(UserError, match="learned its choice of a speed with own_speed.grid='1,2,4', and would"):
                start_parameters(other, "next")
