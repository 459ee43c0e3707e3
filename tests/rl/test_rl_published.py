"""Log-probabilities, losses, gradients and the step of the published GRPO, in tree rows of one chain each.

The published loss counts the `###` that ends the reasoning as the first token of the answer, forced or not; here it is
a decision, so the tests give decisions and answers the weights that one mean over both has.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from golden.published import (
    EMBED_STD,
    SEPARATOR_ID,
    largest_difference,
    published_model,
    recorded,
    under_published_names,
)

from colar_jax.config import DecodeConfig, OptimizerConfig, RlConfig
from colar_jax.decoding.decoder import Decoded
from colar_jax.model.execution import Execution
from colar_jax.rl.credit import advantages_of, term_weights
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.tree_batch import KINDS, Terms, TreeBatch, assemble
from colar_jax.rl.update import policy_loss
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import join, partition

pytestmark = pytest.mark.slow  # CI runs them in its second step
# The published log-probabilities ignore temperatures and top-p.
SAMPLING = DecodeConfig(max_latents=12, min_latents=0, max_answer_tokens=8, top_p=1.0)
COMPUTE = Execution()
AGGREGATIONS = {"chain_mean": "True", "configured_length": "False"}
VARIANTS = ("full", "lora")  # all parameters train, or an adapter and the latent head


def numbers() -> dict:
    return json.loads(str(recorded("rl")["numbers_json"]))


def of_minibatch(name: str) -> np.ndarray:
    return recorded("rl")[f"minibatch/{name}"]


def _assembled(rl: RlConfig) -> TreeBatch:
    """The recorded minibatch: 8 rows of one chain."""
    questions, is_real = of_minibatch("question_input_ids"), of_minibatch("question_attention_mask")
    num_latents = of_minibatch("latent_attention_mask").sum(axis=1)
    answer_mask = of_minibatch("answer_attention_mask").astype(bool)
    old = of_minibatch("answer_logprobs")
    old_decisions = np.zeros((8, 13), np.float32)
    old_decisions[np.arange(8), num_latents] = old[:, 0]
    decoded = Decoded(
        thoughts=of_minibatch("latent_inputs_embeds") / np.float32(EMBED_STD["llama"]),
        thought_log_probs_BL=of_minibatch("latent_logprobs"),
        stop_log_probs_BL=old_decisions,
        num_thoughts_B=num_latents,
        forced_stop_B=np.zeros(8, bool),
        answer_ids_BA=of_minibatch("answer_input_ids")[:, 1:],
        answer_log_probs_BA=old[:, 1:],
        num_answer_tokens_B=answer_mask[:, 1:].sum(axis=-1),
    )
    prompts = [ids[mask == 1] for ids, mask in zip(questions, is_real, strict=True)]
    return assemble(prompts, decoded, of_minibatch("advantages"), rl, num_rows=8, prompt_room=80, min_thoughts=0)


def batch_of(aggregation: str = "chain_mean") -> TreeBatch:
    """The recorded minibatch, its stops credited as published."""
    rl = RlConfig(loss_aggregation=aggregation, configured_length=32)
    batch, answer_mask = _assembled(rl), of_minibatch("answer_attention_mask").astype(bool)
    num_latents = of_minibatch("latent_attention_mask").sum(axis=1)
    # One mean over `###` and the answer, and no decision to go on.
    weights = term_weights(answer_mask[:, None], rl)
    decisions = batch.terms["decision"]
    is_stop = np.arange(decisions.mask.shape[2]) == num_latents[:, None, None]
    decisions = Terms(is_stop, decisions.old_log_probs * is_stop, (is_stop * weights[..., :1]).astype(np.float32))
    answers = dataclasses.replace(batch.terms["answer"], weights=weights[..., 1:])
    np.testing.assert_array_equal(answers.mask, answer_mask[:, None, 1:])
    return dataclasses.replace(batch, terms=batch.terms | {"decision": decisions, "answer": answers})


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_setting_credits_stops_as_published(aggregation):
    """`###` is the first of the answer's terms, and going on is none: what `batch_of` puts together by hand."""
    settings = dict(stop_credit="answer", credit_forced_stops=True, loss_aggregation=aggregation, configured_length=32)
    expected, actual = batch_of(aggregation), _assembled(RlConfig(**settings))
    for kind, terms in expected.terms.items():
        for field in ("mask", "old_log_probs", "weights"):
            np.testing.assert_array_equal(getattr(actual.terms[kind], field), getattr(terms, field), (kind, field))


@functools.cache
def trained_and_frozen(variant: str):
    """The graph, the parameters that train, and those that do not."""
    graph, parameters = published_model(adapter=variant == "lora")
    return graph, *partition(jax.tree.map(jnp.asarray, parameters), ("llama", "latent_head"))


@functools.cache
def evaluated(aggregation: str, variant: str):
    """Loss, metrics and gradients of the recorded minibatch."""
    graph, trainable, frozen = trained_and_frozen(variant)
    rl = RlConfig(min_std=0.0, loss_aggregation=aggregation, latent_ratio="reduced")
    batch = batch_of(aggregation)

    def loss(trainable):
        model = nnx.merge(graph, join(trainable, frozen))
        return policy_loss(model, None, batch, SEPARATOR_ID, rl, SAMPLING, COMPUTE)

    (value, metrics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable)
    return float(value), metrics, gradients


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_probabilities(variant):
    graph, parameters = published_model(adapter=variant == "lora")
    batch = batch_of()
    now = jax.jit(lambda p: rescore(nnx.merge(graph, p), batch, SEPARATOR_ID, SAMPLING, COMPUTE).log_probs)(parameters)
    latents, decisions, answers = (np.asarray(now[kind])[:, 0] for kind in KINDS)
    latent_mask = of_minibatch("latent_attention_mask").astype(bool)[:, : latents.shape[1]]
    expected = of_minibatch(f"{variant}_new_latent_logprobs")[:, : latents.shape[1]]
    assert largest_difference(latents[latent_mask], expected[latent_mask]) < 1e-5
    expected, mask = of_minibatch(f"{variant}_new_answer_logprobs"), batch.terms["answer"].mask[:, 0]
    assert largest_difference(answers[mask], expected[:, 1:][mask]) < 1e-5
    assert largest_difference(decisions[batch.terms["decision"].mask[:, 0]], expected[:, 0]) < 1e-5


@pytest.mark.parametrize("case", range(len(numbers()["group_advantages"])))
def test_group_advantages(case):
    recorded_case = numbers()["group_advantages"][case]
    advantages = advantages_of(np.array([recorded_case["rewards"]]), RlConfig())[0]
    np.testing.assert_allclose(advantages, recorded_case["advantages"], rtol=1e-6, atol=1e-6)


def test_advantages_of_the_rollout():
    rewards, expected = (recorded("rl")[f"rollout/{name}"].reshape(4, 4) for name in ("rewards", "advantages"))
    np.testing.assert_allclose(advantages_of(rewards, RlConfig()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_losses_and_clipping(aggregation, variant):
    loss, metrics, _ = evaluated(aggregation, variant)
    expected = numbers()["grpo"][f"{variant}/average_per_token_{AGGREGATIONS[aggregation]}"]
    parts = {kind: float(metrics[f"loss/{kind}"].sum) for kind in ("latent", "decision", "answer")}
    assert loss == pytest.approx(expected["total_loss"], rel=1e-4)
    assert parts["latent"] == pytest.approx(expected["latent_loss"], rel=1e-4)
    assert parts["decision"] + parts["answer"] == pytest.approx(expected["answer_loss"], rel=1e-4)
    clipped = {kind: metrics[f"clip_fraction/{kind}"] for kind in parts}
    assert float(clipped["latent"].sum / clipped["latent"].count) == pytest.approx(expected["latent_clipped_fraction"])
    both = [clipped["decision"], clipped["answer"]]
    fraction = float(sum(m.sum for m in both) / sum(m.count for m in both))
    assert fraction == pytest.approx(expected["answer_clipped_fraction"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_gradient_norms(aggregation, variant):
    gradients = under_published_names(evaluated(aggregation, variant)[2])
    expected = numbers()["grpo"][f"{variant}/average_per_token_{AGGREGATIONS[aggregation]}"]
    assert gradients.keys() == expected["grad_norms"].keys()
    for name, norm in expected["grad_norms"].items():
        assert np.linalg.norm(gradients[name]) == pytest.approx(norm, rel=2e-4), name
    total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradients.values()))
    assert total == pytest.approx(expected["clip_grad_norm_returned"], rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_adamw_step(variant):
    _, trainable, _ = trained_and_frozen(variant)
    gradients = evaluated("configured_length", variant)[2]
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1e-4, weight_decay=0.01, clip_norm=1.0, schedule="constant"), 1
    )
    updates, _ = optimizer.update(gradients, optimizer.init(trainable), trainable)
    before, after = map(under_published_names, (trainable, optax.apply_updates(trainable, updates)))
    for name, expected in numbers()["grpo"][f"{variant}/adamw_after_average_False"].items():
        # Both are differences of float32 weights; torch decays them first and then steps, which rounds twice.
        assert np.linalg.norm(after[name] - before[name]) == pytest.approx(expected["delta_norm"], rel=4e-3), name
        assert np.linalg.norm(after[name]) == pytest.approx(expected["norm"], rel=1e-5), name
