"""Embedded word problems, from nothing: CoT, CoLaR at any speed and the answer-only floor on a 1M-parameter Llama.

15 minutes on two CPU cores. Problems of one to six operations on numbers up to 20; the speed is any number from 1 to
6, or the model's own. Greedy accuracy % / #L on 1,000 held-out problems, five seeds: CoT 99.4 / 31.4; c = 1 99.8 /
31.4, 2 99.8 / 16.2, 2.5 99.3 / 13.0, 3 99.7 / 10.7, 4 99.7 / 8.09, 5 99.7 / 6.69, 6 96.2 / 5.67; its own speed 99.7 /
6.73; answer only 31.5 (one seed). How: docs/speed.md.

`:two_speeds` is CoLaR as published: speeds 2 and 5, said in the prompt, on problems of three to five operations on
numbers up to 50. 11 minutes; greedy accuracy % / #L, seed 0, on two CPUs: CoT 96.7 / 31.0 and 96.0 / 31.0, c = 2 99.3 /
16.0 and 99.0 / 16.0, c = 5 83.5 / 6.66 and 78.3 / 6.66, answer only 18.0 and 16.3. A speed that was not trained is
unusable: c = 1.5 and 3.5 came out anywhere from 7 to 48 %. What RL makes of it: docs/rl_results.md.

python -m colar_jax.train --config=configs/arithmetic.py
python -m colar_jax.train --config=configs/arithmetic.py:smoke         # in about a minute, learning nothing
python -m colar_jax.train --config=configs/arithmetic.py:budget        # and its speed chosen under a budget of passes
python -m colar_jax.train --config=configs/arithmetic.py:two_speeds    # speeds 2 and 5 in the prompt, as published
python -m colar_jax.train --config=configs/arithmetic.py:rl            # and reinforcement learning, in the same folder
python -m colar_jax.train --config=configs/arithmetic.py:redundant     # RL on chains that have something to cut
python -m colar_jax.train --config=configs/arithmetic.py:shorter       # the same, as short as they can be at no loss
python -m colar_jax.train --config=configs/arithmetic.py:filler        # the same where two thirds can be cut
python -m colar_jax.train --config=configs/arithmetic.py:no_averaging  # after :redundant: no averaging over a chain
python -m colar_jax.train --config=configs/arithmetic.py:baselines     # CoLaR, iCoT, Coconut, CODI and answer only
python -m colar_jax.train --config=configs/arithmetic.py:baselines --config.run=cot,coconut     # or some of them
"""

from colar_jax.config import defaults, stage_defaults

BASELINES = ("icot", "coconut", "codi")


def get_config(argument: str = ""):
    """The run, and what an argument makes of it (`VARIANTS`)."""
    if argument not in VARIANTS:
        known = ", ".join(name for name in VARIANTS if name)
        raise ValueError(f"configs/arithmetic.py knows the arguments {known}, not {argument!r}")
    config = _config()
    VARIANTS[argument](config)
    return config


def _config():
    """Speeds 2 and 5, said in the prompt as published; and what all others have in common."""
    config = defaults()
    config.title = "Embedded arithmetic"
    config.workdir = "runs/arithmetic_two_speeds"
    config.run = "cot,colar,no_cot"
    # Numbers up to 50: errors are neighbours of the right number, and half the numbers are half as dense.
    config.data.train = "arithmetic:max_number=50"
    config.data.train_limit = 60_000
    config.data.num_test = 1000
    config.model.preset = "nano"
    config.model.scan_layers = False  # four layers: unrolled they compile as fast, and run a little faster on a CPU
    # Wide enough to keep a hundred numbers apart: at the model's own 128 they blur into their neighbours.
    config.model.latent_head.intermediate_size = 512
    config.decode.max_step_tokens = 64
    config.decode.max_latents = 48
    config.decode.max_answer_tokens = 8
    # The tables of two speeds and of reinforcement learning have this rule, and speeds weighed by positions.
    config.decode.greedy_stop = "argmax"
    config.eval.speeds = "1.5,2,3.5,5"
    optimizer = dict(b2=0.98, warmup_steps=100)

    # Small batches everywhere: what a model this small lacks is optimizer steps, not examples.
    config.stages.cot = stage_defaults(method="cot", steps=1300, rows=8, row_positions=160, log_every=100)
    config.stages.cot.optimizer.update(learning_rate=2e-3, **optimizer)

    config.stages.colar = stage_defaults(
        method="colar", steps=8000, rows=3, row_positions=160, eval_every=4000, log_every=200
    )
    config.stages.colar.optimizer.update(learning_rate=2e-3, **optimizer)
    # Weight 10: with 1 the latents are too blurred to carry numbers. Speed 5 is the harder one: drawn twice as often.
    config.stages.colar.latent.update(speeds="2,5,5", weight=10.0, weighting="position")

    # The CoLaR stage leaves latents with next to no spread (soft MSE): the floor min_std gives the policy some, and
    # without it ratios explode. A reward says little, right or wrong once a chain: at twice this learning rate, or with
    # latents that count no more than answers, the model forgets as fast as it learns. The cosine ends on small steps.
    config.stages.rl = stage_defaults(
        method="colar", trainer="grpo", init_from="colar", steps=150, eval_every=50, log_every=10
    )
    config.stages.rl.optimizer.update(learning_rate=6e-5, b2=0.99, warmup_steps=10)
    config.stages.rl.latent.update(speeds="1.5,3.5,5", weighting="position")  # two the CoLaR stage never saw
    config.stages.rl.rl.update(num_questions=64, num_generations=8, minibatch_size=128, min_std=0.2, latent_weight=16.0)

    config.stages.no_cot = stage_defaults(
        method="no_cot", init_from="cot", steps=800, rows=5, row_positions=160, log_every=100
    )
    config.stages.no_cot.optimizer.update(learning_rate=1.5e-3, **optimizer)
    for name in BASELINES:
        config.stages[name] = stage_defaults(method=name, init_from="cot", row_positions=160, log_every=100)
        config.stages[name].optimizer.update(learning_rate=1.5e-3, **optimizer)
    return config


def _any_speed(config) -> None:
    """Any speed from 1 to 6, told as a number, on problems of one to six operations; a last stage chooses its own."""
    config.workdir = "runs/arithmetic"
    config.run = "cot,colar,auto,no_cot"
    # Up to 50 what is left to learn after these updates are the speeds at which groups and steps never begin together.
    config.data.train = "arithmetic:max_number=20,max_change=9,min_steps=1,max_steps=6"
    config.decode.greedy_stop = "half"
    config.decode.speed_certainty = 0.99  # its own speed is the fastest at which it is that sure to be right
    config.eval.update(speeds="1,1.5,2,2.5,3,3.5,4,5,6", seeds=3)
    config.stages.colar.update(steps=9000, eval_every=4500)
    # In text a speed is read by its last digits, and where positions count latents each speed is learned by itself
    # (docs/speed.md). From 3 on speeds are the harder ones: twice as often.
    told = {"speeds": "1..6,3..6", "conditioning": "number", "timeline": "tokens", "weighting": "example"}
    for name in ("colar", "rl"):
        config.stages[name].latent.update(told)
    # It chooses a speed for each question by itself: the fastest at which it is right. A head alone is trained.
    config.stages.auto = stage_defaults(
        method="own_speed", init_from="colar", steps=400, rows=8, row_positions=160, log_every=100
    )
    config.stages.auto.optimizer.update(learning_rate=2e-3, b2=0.98, warmup_steps=100)
    # Where slower is never worse the fastest right speed says all; the table of docs/speed.md has these labels.
    config.stages.auto.own_speed.update(num_labelled=2000, timeline="tokens", labels="fastest")
    # The choice as an action: right answers, less what the forward passes cost, at a price that meets the budget.
    # From a head that has learned nothing, which draws every speed: that of `auto` is certain, and draws one alone.
    config.stages.auto_rl = stage_defaults(
        method="own_speed", trainer="grpo", init_from="colar", steps=100, log_every=10
    )
    config.stages.auto_rl.optimizer.update(learning_rate=3e-4, b2=0.99, warmup_steps=5, weight_decay=0.0)
    config.stages.auto_rl.own_speed.update(timeline="tokens", labels="fastest")
    # Each of a question's eight rollouts draws a speed, and they are compared with each other. Nothing but the choice
    # is learned, so latents keep the spread that they have, and a batch is gone through twice.
    config.stages.auto_rl.rl.update(num_questions=32, num_generations=8, speeds_per_group=8, centre="group")
    config.stages.auto_rl.rl.update(minibatch_size=128, num_iterations=2, min_std=0.0, stop_on_collapse=False)
    # Not divided by their spread: where all are right a difference in passes would count as much as one in answers.
    config.stages.auto_rl.rl.update(length_credit="cost", length_weight=0.5, budget=16.0, budget_rate=0.2)
    config.stages.auto_rl.rl.advantage = "dr_grpo"


def _budget(config) -> None:
    """After that, in the same folder, the choice of a speed under a budget of forward passes."""
    _any_speed(config)
    config.run = "cot,colar,auto,auto_rl,no_cot"
    config.decode.speed_certainty = 0.0  # that of rewards is a choice, and says nothing of being right


def _smoke(config) -> None:
    """Everything tiny."""
    _rl(config)
    for name in ("colar", "rl"):
        config.stages[name].latent.update(speeds="2,5,5", conditioning="both", weighting="example")
    config.decode.greedy_stop = "half"
    config.workdir = "runs/arithmetic_smoke"
    config.model.preset = "pico"
    config.model.latent_head.intermediate_size = 32
    config.data.update(train_limit=500, num_val=16, num_test=32)
    config.eval.seeds = 2
    for stage in config.stages.values():
        stage.update(steps=6, log_every=2, eval_every=3)
        if stage.trainer == "sft":
            stage.rows = 4
        stage.optimizer.warmup_steps = 2
    # A policy that was never trained has ratios of any size.
    config.stages.rl.rl.update(num_questions=4, num_generations=4, minibatch_size=8, stop_on_collapse=False)
    config.stages.icot.icot.removed_per_epoch = 1e4
    config.stages.coconut.coconut.epochs_per_stage = 0.01
    config.decode.max_latents = 8


def _rl(config) -> None:
    """Reinforcement learning after supervised training, in the same folder."""
    config.run = "cot,colar,rl,no_cot"


def _redundant(config) -> None:
    """Chains that say their last step up to three times more: something for reinforcement learning to cut."""
    config.workdir = "runs/arithmetic_redundant"
    config.run = "cot,colar,rl"
    config.data.update(train="arithmetic:max_number=20,max_change=9,max_repeats=3", train_limit=20_000)
    config.decode.max_step_tokens = 80
    config.stages.cot.update(steps=600, row_positions=176)
    config.stages.colar.update(steps=3000, row_positions=176, eval_every=1000)
    # Lengths differ from rollout to rollout, so there is more to learn from than where only answers do.
    config.stages.rl.update(steps=100, eval_every=25, log_every=5)
    # With a price in the reward, at 1e-4 chains shorten twice as fast, and accuracy goes with them.
    config.stages.rl.optimizer.learning_rate = 5e-5
    config.stages.rl.latent.speeds = "2,5"
    config.stages.rl.rl.length_penalty = 0.5
    config.eval.speeds = "2,5"


def shorten(stage) -> None:
    """Reinforcement learning that cuts chains at no loss (docs/rl.md, the recipe for certain models)."""
    stage.update(steps=80, eval_every=40, log_every=10)
    stage.optimizer.update(learning_rate=5e-5, warmup_steps=10)
    # Correctness and length apart: right chains are told apart by their length, in full where 95 of 100 are right.
    stage.rl.update(length_penalty=0.0, length_credit="among_right", length_weight=0.5, length_target=0.95)
    stage.rl.update(dual_clip=3.0, overlong="no_advantage", redraws=1)
    # After supervised training the decision to stop is next to certain: odds are tempered, and less so each iteration.
    stage.rl.update(stop_odds_temperature=1.5, final_stop_odds_temperature=1.0, length_price=0.1)
    # One stop among some twenty decisions, of which a chain counts the mean: at 1 it is still drawn amiss at the end.
    stage.rl.decision_weight = 4.0


def _shorter(config) -> None:
    """`redundant`, with each step ended alike, and a length credit instead of a price in the reward.

    Five seeds, greedy: 94.7 % / 21.9 latents to 99.3 / 16.1 at speed 2, 92.5 / 9.42 to 98.2 / 8.08 at 4, the least that
    there can be (docs/rl_results.md); on one core 20 minutes of training before it, and 7 of rewards.
    """
    _redundant(config)
    config.workdir = "runs/arithmetic_shorter"
    # Steps of 8 tokens, the last one too: at speeds that divide 8 no short last group gives the end of a chain away.
    config.data.train += ",step_tokens=8"
    for stage in (config.stages.colar, config.stages.rl):
        stage.latent.speeds = config.eval.speeds = "2,4"
    shorten(config.stages.rl)


def _filler(config) -> None:
    """Most of a chain carries nothing: the last step is said again up to 12 times, and sentences are no steps."""
    _shorter(config)
    config.workdir = "runs/arithmetic_filler"
    config.data.train = "arithmetic:max_number=20,max_change=9,max_repeats=12,max_fillers=10,step_tokens=8"
    config.decode.update(max_step_tokens=224, max_latents=112)
    config.stages.cot.row_positions = config.stages.colar.row_positions = 320
    config.stages.colar.steps = 4000
    config.stages.rl.steps = 160  # twice as many latents to lose


def _no_averaging(config) -> None:
    """The paper's ablation, credited as published: a chain's sum instead of its mean, stops as tokens of the answer.

    In the paper chains run to the limit. docs/rl_results.md has what is known of it.
    """
    _redundant(config)
    config.workdir = "runs/arithmetic_no_averaging"
    config.run = "rl"
    config.stages.rl.init_from = "runs/arithmetic_redundant/colar"
    config.stages.rl.update(steps=60, eval_every=30)
    config.stages.rl.optimizer.learning_rate = 1e-4
    config.stages.rl.rl.update(
        loss_aggregation="configured_length",
        length_penalty=0.0,
        stop_credit="answer",
        credit_forced_stops=True,
        stop_on_collapse=False,
    )


def _on_equal_terms(config) -> None:
    """Five methods from one chain of thought: the same problems, updates, problems an update, and learning rate."""
    config.workdir = "runs/arithmetic_baselines"
    config.run = "cot,colar,icot,coconut,codi,no_cot"
    # As few problems as a real set has for a real model. With new ones without end answers alone are learned by heart,
    # whatever their number of steps, and nothing is left to reason about. Numbers up to 20: one operation done in
    # silence takes some 700 updates to learn, up to 50 it takes thousands.
    config.data.update(train="arithmetic:max_number=20,max_change=9,min_steps=2,max_steps=4", train_limit=2000)
    config.stages.cot.steps = 600
    for name in ("colar", "no_cot", *BASELINES):
        config.stages[name].update(init_from="cot", steps=4500, eval_every=1500)
        config.stages[name].optimizer.learning_rate = 1.5e-3
    # 14 to 18 problems an update, 111 to 142 updates an epoch: rows of what has no steps, or short ones, hold more.
    for name, rows in {"colar": 5, "icot": 7, "coconut": 6, "codi": 7, "no_cot": 4}.items():
        config.stages[name].rows = rows
    # iCoT's 31 tokens are gone at step 3,430. Coconut's four stages take 160 steps each, and the last one all the rest:
    # what is evaluated is learned there. Of stages of 800 steps less comes out.
    config.stages.coconut.coconut.update(num_stages=4, latents_per_stage=1, epochs_per_stage=1.2, reset_optimizer=False)
    config.stages.icot.icot.update(removed_per_epoch=1.13, reset_optimizer=False)
    config.stages.codi.codi.update(num_latents=4, distill_weight=5.0, projection_size=128)
    config.eval.speeds = "2,5"


VARIANTS = {
    "": _any_speed,
    "budget": _budget,
    "two_speeds": lambda config: None,
    "rl": _rl,
    "redundant": _redundant,
    "shorter": _shorter,
    "filler": _filler,
    "no_averaging": _no_averaging,
    "baselines": _on_equal_terms,
    "smoke": _smoke,
}
