import re

import pytest

from colar_jax.command_line.flags import override
from colar_jax.config import defaults, resolve, resolve_plain, stage_defaults
from colar_jax.config.of_before import of_this_version
from colar_jax.errors import UserError
from colar_jax.runs.beforehand import idle_settings


def config_with(setting, value):
    config = defaults()
    config.run = "rl"
    config.stages.rl = stage_defaults(method="colar", trainer="grpo")
    config.update_from_flattened_dict({setting: value})
    return config


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("stages.rl.trainer", "grop", r"stage.trainer='grop' is none of sft, grpo. Did you mean 'grpo'\?"),
        ("stages.rl.rl.num_generations", 1, "a group of one has no advantage"),
        ("stages.rl.rl.num_questions", 0, "rl.num_questions=0 must be positive"),
        ("stages.rl.rl.minibatch_size", 12, "rl.minibatch_size=12 is no multiple of rl.num_generations=8"),
        ("stages.rl.rl.speeds_per_group", 3, "rl.speeds_per_group=3 does not divide rl.num_generations=8"),
        ("stages.rl.rl.epsilon", 1.0, "rl.epsilon=1.0 is not between 0 and 1"),
        ("stages.rl.rl.epsilon_high", 0.0, "rl.epsilon_high=0.0 must be positive"),
        ("stages.rl.rl.beta", -0.1, "rl.beta=-0.1 is negative"),
        ("stages.rl.rl.latent_weight", -1.0, "rl.latent_weight=-1.0 is negative"),
        ("stages.rl.rl.stop_odds_temperature", 0.0, "rl.stop_odds_temperature=0.0 must be positive"),
        ("stages.rl.rl.length_penalty", 1.5, "rl.length_penalty=1.5 is above 1"),
        ("stages.rl.rl.log_prob_reduction", "max", "none of mean, root, sum"),
        ("stages.rl.rl.stop_credit", "answers", "none of decision, answer. Did you mean 'answer'"),
        ("stages.rl.rl.speeds_per_group", 8, "rl.speeds_per_group=8 leaves one rollout a prompt"),
        ("stages.rl.rl.budget", 8.0, "rl.budget=8.0 with rl.length_credit='none'"),
        ("stages.rl.rl.length_target", 0.0, "rl.length_target=0.0 is an accuracy"),
        ("stages.rl.rl.dual_clip", 1.1, "rl.dual_clip=1.1 is not above 1 [+] rl.epsilon_high"),
        ("stages.rl.accumulation", 16, r"stage.accumulation=16 is more than there are rows: 1 \(of a minibatch"),
        ("stages.rl.rl.final_max_latents", 65, "final_max_latents=65 is not between decode.min_latents=1 and .*=64"),
        ("stages.rl.rl.noise", "onesided", "none of two_sided, one_sided"),
        ("decode.latent_noise", "onesided", "none of two_sided, one_sided"),
        ("decode.min_latent_std", -1.0, "decode.min_latent_std=-1.0 is negative"),
    ],
)
def test_one_error_for_a_wrong_value(setting, value, message):
    config = config_with(setting, value)
    with pytest.raises(ValueError, match=message):
        resolve(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 8.0, "length_credit": "when_solved"}, r"budget=8.0 with rl.length_credit='when_solved': .* longer"),
        ({"length_penalty": 0.5, "reward": "well_formed"}, "length_penalty=0.5 .* rl.reward='well_formed' does not"),
        ({"length_penalty": 0.5, "reward": "2*correctness, 0.1*well_formed"}, ""),
        (
            {"choice_weight": 2.0},
            "choice_weight=2.0 is of a speed that the model chooses, and method='colar' chooses none",
        ),
        (
            {"choice_entropy_weight": 0.1},
            "choice_entropy_weight=0.1 is of a speed that the model chooses, and method='colar' chooses none",
        ),
        ({"rollout_dropout": True}, "rollout_dropout=True without adapters"),
        ({"length_weight": 5.0}, "length_weight=5.0 does nothing under rl.length_credit='none': leave it at 0.5, or"),
        ({"length_weight": 5.0, "length_credit": "penalty"}, ""),
        (
            {"length_target": 0.5, "length_credit": "cost"},
            "length_target=0.5 does nothing under rl.length_credit='cost'",
        ),
        ({"length_target": 0.5, "length_credit": "among_right"}, ""),
        ({"budget_rate": 0.2}, "budget_rate=0.2 does nothing under rl.budget=0.0"),
        ({"configured_length": 8}, "configured_length=8 does nothing under rl.loss_aggregation='chain_mean'"),
        (
            {"advantage_eps": 1e-6, "advantage": "dr_grpo"},
            "advantage_eps=1e-06 does nothing under rl.advantage",
        ),
        ({"advantage_eps": 1e-6}, ""),
        (
            {"decision_weight": 4.0, "stop_credit": "answer"},
            "decision_weight=4.0 does nothing under rl.stop_credit='answer': leave it at 1.0, or set rl.stop_credit",
        ),
        ({"decision_weight": 4.0}, ""),
        ({"stop_credit": "answer"}, ""),
        ({}, ""),
    ],
)
def test_what_does_nothing_is_refused_before_training_and_can_be_opened_after_it(settings, message):
    config = config_with("model.lora.dropout", 0.1)
    config.stages.rl.rl.update(settings)
    resolved = resolve(config)
    objection = idle_settings(resolved.stages["rl"], resolved.model)
    assert re.match(message, objection) if message else not objection


def test_a_deterministic_head_has_no_entropy_to_reward():
    config = config_with("model.latent_head.deterministic", True)
    config.stages.rl.rl.entropy_weight = 0.1
    with pytest.raises(ValueError, match=r"rl.entropy_weight=0.1 with .*=True does nothing: .*min_std=0.2"):
        resolve(config)


def test_a_deterministic_head_needs_a_floor_to_sample():
    config = config_with("model.latent_head.deterministic", True)
    assert resolve(config).stages["rl"].rl.min_std == 0.2
    config.stages.rl.rl.min_std = 0.0
    with pytest.raises(ValueError, match="stages.rl.rl.min_std=0 with model.latent_head.deterministic=True"):
        resolve(config)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("latent_sft", {"entropy_weight": 0.1}, "stages.rl.rl.entropy_weight=0.1 is of Gaussian latents"),
        ("latent_sft", {"stop_odds_temperature": 3.0}, "stages.rl.rl.stop_odds_temperature=3.0 does nothing"),
        ("adaptive", {"entropy_weight": 0.1}, "stages.rl.rl.entropy_weight=0.1 does nothing: no latent is drawn"),
    ],
)
def test_what_other_latents_have_nothing_of_is_refused(method, settings, message):
    config = defaults()
    config.run = "rl"
    config.stages.rl = stage_defaults(method=method, trainer="grpo", rl=settings)
    with pytest.raises(ValueError, match=message):
        resolve(config)


@pytest.mark.parametrize(
    ("trainer", "settings", "setting"),
    [
        ("sft", {"rl": {"num_questions": 4}}, "rl"),
        ("grpo", {"rows": 4}, "rows"),
        ("grpo", {"row_positions": 512}, "row_positions"),
    ],
)
def test_settings_that_a_trainer_does_not_read_are_refused(trainer, settings, setting):
    config = defaults()
    config.run = "stage"
    config.stages.stage = stage_defaults(method="colar", trainer=trainer, **settings)
    message = f"config.stages.stage.{setting}: a stage of trainer='{trainer}' does not read it"
    with pytest.raises(UserError, match=message):
        resolve(config)


@pytest.mark.parametrize(("trainer", "meant"), [("sft", "rows"), ("grpo", "rl.minibatch_size")])
def test_a_name_of_another_program_is_that_of_the_trainer(trainer, meant):
    config = defaults()
    config.run = "stage"
    config.stages.stage = stage_defaults(method="colar", trainer=trainer, batch_size=4)
    with pytest.raises(UserError, match=f"batch_size is no setting. The setting is config.stages.stage.{meant}[.]"):
        resolve(config)


def test_what_every_stage_used_to_have_is_left_out_of_a_config_of_before():
    config = defaults()
    config.run = "rl"
    config.stages.rl = stage_defaults(method="colar", trainer="grpo")
    before = config.to_dict()
    before["stages"]["rl"] |= {"rows": 4, "row_positions": 512}
    assert resolve_plain(of_this_version(before)) == resolve(config)


def test_a_flag_that_changes_the_trainer_takes_its_settings_along():
    config = defaults()
    config.run = "colar"
    config.stages.colar = stage_defaults(method="colar", rows=4, row_positions=100)
    override(config, ["--config.stages.colar.trainer=grpo", "--config.stages.colar.rl.num_questions=4"], [])
    assert resolve(config).stages["colar"].rl.num_questions == 4
    with pytest.raises(UserError, match="no setting 'rows'.*The setting is config.stages.colar.rl.minibatch_size[.]"):
        override(config, ["--config.stages.colar.rows=4"], [])
    with pytest.raises(UserError, match="no setting 'row_positions'[.]$"):
        override(config, ["--config.stages.colar.row_positions=4"], [])
    override(config, ["--config.stages.colar.trainer=sft", "--config.stages.colar.rows=4"], [])
    assert resolve(config).stages["colar"].rows == 4
