import dataclasses
import re

import ml_collections
import pytest

from colar_jax.config import (
    Config,
    DecodeConfig,
    StageConfig,
    defaults,
    nearest,
    parse_speeds,
    parse_targets,
    plain,
    resolve,
    split_names,
    stage_defaults,
)


def two_stages() -> ml_collections.ConfigDict:
    config = defaults()
    config.stages.cot = stage_defaults(method="cot", steps=10)
    config.stages.colar = stage_defaults(method="colar", steps=10)
    return config


def with_setting(path, value) -> ml_collections.ConfigDict:
    """Two stages, and one setting that is not as it should be; `ConfigDict` itself would refuse some."""
    settings = two_stages().to_dict()
    *groups, name = path.split(".")
    node = settings
    for group in groups:
        node = node[group]
    node[name] = value
    return ml_collections.ConfigDict(settings)


def assert_refused(path, value, message):
    stage = re.match(r"stages\.\w+", path)  # of which there are several
    whole = f"config.{stage[0]}: {message}" if stage and not message.startswith("config.") else message
    with pytest.raises(ValueError, match=f"^{re.escape(whole)}$"):
        resolve(with_setting(path, value))


# What is right


def test_defaults_are_those_of_the_dataclasses():
    resolved = resolve(two_stages())
    stages = {"cot": StageConfig(method="cot", steps=10), "colar": StageConfig(method="colar", steps=10)}
    assert resolved == Config(stages=stages)
    assert resolved.stage_names == ("cot", "colar")


def test_resolving_is_a_round_trip():
    resolved = resolve(two_stages())
    assert resolve(ml_collections.ConfigDict(plain(resolved))) == resolved


def test_settings_on_top_of_a_stages_defaults():
    stage = stage_defaults(method="colar", rows=8)
    assert (stage.method, stage.rows, stage.row_positions) == ("colar", 8, StageConfig().row_positions)
    assert stage.latent.weight == 1.0


def test_a_resolved_config_is_frozen():
    resolved = resolve(two_stages())
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolved.stages["cot"].optimizer.learning_rate = 1.0


def test_a_whole_number_is_a_number():
    top_p = resolve(with_setting("decode.top_p", 1)).decode.top_p
    assert type(top_p) is float and top_p == 1


def test_numbers_at_the_edge_of_their_range():
    for path, value in [
        ("decode.top_p", 1.0),
        ("decode.min_latents", 0),
        ("decode.min_latents", 64),
        ("eval.seeds", 0),
        ("stages.colar.latent.auto_probability", 1.0),
        ("stages.colar.latent.weight", 0.0),
        ("stages.colar.accumulation", 16),
        ("stages.colar.optimizer.b1", 0.0),
        ("stages.colar.optimizer.weight_decay", 0.0),
    ]:
        resolve(with_setting(path, value))


# Keys and types


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("seeed", "seed"),
        ("data.trian", "train"),
        ("model.latent_head.determinstic", "deterministic"),
        ("stages.cot.row_position", "row_positions"),
        ("stages.colar.optimizer.lerning_rate", "learning_rate"),
        ("stages.colar.latent.speed", "speeds"),
        ("decode.topp", "top_p"),
        ("eval.batchsize", "batch_size"),
    ],
)
def test_a_misspelt_key_is_told_the_nearest_right_one(path, meant):
    assert_refused(path, 1, f"config.{path} is no setting. Did you mean {meant!r}?")


def test_a_key_like_no_other():
    assert_refused("data.qqq", 1, "config.data.qqq is no setting.")


@pytest.mark.parametrize(
    ("path", "value", "found", "expected"),
    [
        ("seed", 1.5, "float", "int"),
        ("seed", True, "bool", "int"),
        ("seed", "0", "str", "int"),
        ("seed", None, "NoneType", "int"),
        ("title", 1, "int", "str"),
        ("data.allow_overlap", 1, "int", "bool"),
        ("eval.greedy", "yes", "str", "bool"),
        ("decode.top_p", "0.9", "str", "float"),
        ("decode.top_p", False, "bool", "float"),
        ("stages.cot.steps", 10.0, "float", "int"),
        ("stages.colar.latent.speeds", 2, "int", "str"),
    ],
)
def test_a_wrong_type(path, value, found, expected):
    assert_refused(path, value, f"config.{path}={value!r} is of type {found}: expected {expected}")


@pytest.mark.parametrize("path", ["data", "model.latent_head", "stages.cot", "stages.cot.optimizer"])
def test_a_number_where_a_group_belongs(path):
    with pytest.raises(ValueError, match=rf"^config\.{path}=5: expected a group of settings \(\w+, .*\w\)$"):
        resolve(with_setting(path, 5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3.5e38])
def test_not_a_finite_number(value):
    assert_refused(
        "stages.cot.optimizer.learning_rate",
        value,
        f"config.stages.cot.optimizer.learning_rate={value!r} is not a finite number in float32",
    )


# Ranges. The message names the field and the value.

RANGES = [
    ("keep_checkpoints", 0, "keep_checkpoints=0: keep at least one"),
    ("run", " , ", "run is empty: name the stages to run, such as run='cot,colar'"),
    ("data.train", "", "data.train is empty: name a source, a .jsonl file or a folder"),
    ("data.train_limit", -1, "data.train_limit=-1 is negative: 0 means all"),
    ("data.num_test", -1, "data.num_test=-1 is negative: 0 means all"),
    ("data.num_val", 0, "data.num_val=0: validation needs at least one problem"),
    ("data.held_out", -2, "data.held_out=-2: a number of problems, 0 for none, or -1 for a tenth of the file"),
    ("model.logits_chunk", 0, "model.logits_chunk=0 must be positive"),
    ("model.latent_head.intermediate_size", -1, "model.latent_head.intermediate_size=-1 < 0"),
    ("model.latent_head.min_log_std", 2.0, "model.latent_head: min_log_std=2.0 is not below max_log_std=2.0"),
    ("stages.cot.rows", 0, "stage.rows=0 must be positive"),
    ("stages.cot.row_positions", -1, "stage.row_positions=-1 must be positive"),
    ("stages.cot.accumulation", 0, "stage.accumulation=0 must be positive"),
    ("stages.cot.log_every", 0, "stage.log_every=0 must be positive"),
    ("stages.cot.steps", -1, "stage.steps=-1 is negative"),
    ("stages.cot.eval_every", -1, "stage.eval_every=-1 is negative"),
    ("stages.cot.save_every", -1, "stage.save_every=-1 is negative"),
    ("stages.cot.accumulation", 17, "stage.accumulation=17 is more than there are rows: 16 (stage.rows)"),
    ("stages.cot.optimizer.learning_rate", 0, "optimizer.learning_rate=0.0 must be positive"),
    ("stages.cot.optimizer.clip_norm", -1, "optimizer.clip_norm=-1.0 must be positive"),
    ("stages.cot.optimizer.weight_decay", -0.1, "optimizer.weight_decay=-0.1 is negative"),
    ("stages.cot.optimizer.b1", -0.1, "optimizer.b1=-0.1 is not in [0, 1)"),
    ("stages.cot.optimizer.b2", 1, "optimizer.b2=1.0 is not in [0, 1)"),
    ("stages.cot.optimizer.warmup_steps", -1, "optimizer.warmup_steps=-1 is negative"),
    ("stages.colar.latent.auto_probability", 1.1, "latent.auto_probability=1.1 is not in [0, 1]"),
    ("stages.colar.latent.weight", -1, "latent.weight=-1.0 is negative"),
    ("stages.colar.latent.predicted_pass_weight", -1, "latent.predicted_pass_weight=-1.0 < 0"),
    ("decode.max_latents", 0, "decode.max_latents=0 must be positive"),
    ("decode.max_step_tokens", 0, "decode.max_step_tokens=0 must be positive"),
    ("decode.max_answer_tokens", 0, "decode.max_answer_tokens=0 must be positive"),
    ("decode.min_latents", 65, "decode.min_latents=65 is not between 0 and max_latents=64"),
    ("decode.min_latents", -1, "decode.min_latents=-1 is not between 0 and max_latents=64"),
    ("decode.top_p", 0, "decode.top_p=0.0 is not in (0, 1]"),
    ("decode.top_p", 1.1, "decode.top_p=1.1 is not in (0, 1]"),
    ("eval.seeds", -1, "eval.seeds=-1 is negative"),
    ("eval.batch_size", 0, "eval.batch_size=0 must be positive"),
    ("eval.temperatures", "1,0", "'0' of eval.temperatures='1,0' is no float above 0"),
    ("eval.temperatures", "inf", "'inf' of eval.temperatures='inf' is no float above 0"),
    ("eval.temperatures", "1e39", "'1e39' of eval.temperatures='1e39' is no float above 0"),
    ("eval.latent_limits", "4,2.5", "'2.5' of eval.latent_limits='4,2.5' is no int above 0"),
]


@pytest.mark.parametrize(("path", "value", "message"), RANGES, ids=[f"{path}={value}" for path, value, _ in RANGES])
def test_a_number_out_of_range(path, value, message):
    assert_refused(path, value, message)


@pytest.mark.parametrize("name", ["latent_temperature", "stop_temperature", "answer_temperature"])
def test_no_temperature_is_zero(name):
    assert_refused(f"decode.{name}", 0, f"decode.{name}=0.0 must be positive; greedy decoding is eval.greedy")


CHOICES = [
    (
        "stages.cot.matmul_precision",
        "bf16",
        "stage.matmul_precision='bf16' is none of default, bfloat16, tensorfloat32, float32. Did you mean 'bfloat16'?",
    ),
    ("model.dtype", "float16", "model.dtype='float16' is none of float32, bfloat16. Did you mean 'bfloat16'?"),
    ("model.remat", "ful", "model.remat='ful' is none of none, dots, full. Did you mean 'full'?"),
    (
        "stages.cot.optimizer.schedule",
        "linear",
        "optimizer.schedule='linear' is none of cosine, constant. Did you mean 'cosine'?",
    ),
    ("stages.colar.latent.loss", "mse", "latent.loss='mse' is none of soft_mse, nll. Did you mean 'soft_mse'?"),
    ("stages.colar.latent.pooling", "sum", "latent.pooling='sum' is none of sqrt, mean."),
    ("run", "cot,color", "a stage of run='color' is none of colar, cot. Did you mean 'colar'?"),
    ("eval.stages", "cotter", "a stage of eval.stages='cotter' is none of colar, cot. Did you mean 'cot'?"),
]


@pytest.mark.parametrize(("path", "value", "message"), CHOICES, ids=[path for path, _, _ in CHOICES])
def test_a_word_that_is_none_of_the_choices(path, value, message):
    assert_refused(path, value, message)


# Combinations


def test_a_deterministic_head_has_no_likelihood():
    config = two_stages()
    config.model.latent_head.deterministic = True
    resolve(config)
    config.stages.colar.latent.loss = "nll"
    with pytest.raises(ValueError, match=r"^stages\.colar\.latent\.loss='nll' with .*deterministic=True.*'soft_mse'$"):
        resolve(config)


def test_a_stage_needs_steps_or_epochs():
    config = two_stages()
    config.stages.cot.update(steps=0, epochs=0.5)
    resolve(config)
    config.stages.cot.epochs = 0.0
    with pytest.raises(ValueError, match=r"^config\.stages\.cot: a stage needs stage\.steps or stage\.epochs above 0$"):
        resolve(config)


def test_nothing_to_evaluate():
    config = two_stages()
    config.eval.update(greedy=False, seeds=1)
    resolve(config)
    config.eval.seeds = 0
    with pytest.raises(ValueError, match=r"^eval\.greedy=False and eval\.seeds=0 leave nothing to evaluate$"):
        resolve(config)


def test_fewer_latents_than_the_least():
    with pytest.raises(ValueError, match=r"^decode\.min_latents=5 is not between 0 and max_latents=4$"):
        DecodeConfig(max_latents=4, min_latents=5)


# Text


@pytest.mark.parametrize(
    ("text", "speeds"),
    [("", ()), ("2", (2.0,)), (" 1, 1.5 ,2,auto,", (1.0, 1.5, 2.0, "auto")), ("5,1", (5.0, 1.0)), ("auto", ("auto",))],
)
def test_speeds(text, speeds):
    assert parse_speeds(text) == speeds


@pytest.mark.parametrize("part", ["0.5", "0", "-2", "two", "nan", "inf", "1;2", "Auto", "1..5", "2.0000001"])
def test_what_is_no_speed(part):
    with pytest.raises(ValueError, match=f"^{re.escape(repr(part))} is no thinking speed: a number of at least 1"):
        parse_speeds(f"2,{part}")


@pytest.mark.parametrize("text", ["", "auto", "2,auto"])
def test_speeds_to_train_are_numbers(text):
    with pytest.raises(
        ValueError, match=rf"^config\.stages\.colar: latent\.speeds={text!r}: list the numbers to train"
    ):
        resolve(with_setting("stages.colar.latent.speeds", text))


def test_speeds_are_checked_at_start_up():
    for path, where in (("stages.colar.latent.speeds", r"config\.stages\.colar: "), ("eval.speeds", "")):
        setting = path.removeprefix("stages.colar.")
        with pytest.raises(ValueError, match=rf"^{where}'0\.5' of {setting}='0\.5' is no thinking speed"):
            resolve(with_setting(path, "0.5"))
    assert resolve(with_setting("eval.speeds", "auto,2")).eval.speeds == "auto,2"


def test_names():
    assert split_names(" cot, colar,,") == ("cot", "colar")
    assert nearest("colr", ["cot", "colar"]) == " Did you mean 'colar'?"
    assert nearest("zzz", ["cot", "colar"]) == ""


# Adapters


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("query,value", ("query", "value")),
        ("v_proj, q_proj", ("query", "value")),
        ("q_proj,query,down_proj,out", ("query", "out", "down")),
    ],
)
def test_targets_have_two_names(text, targets):
    assert parse_targets(text) == targets


NAMES_OF_TARGETS = (
    "query, key, value, out, gate, up, down, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.lora.rank", -1, "model.lora.rank=-1 is negative: 0 means no adapters"),
        ("model.lora.alpha", 0.0, "model.lora.alpha=0.0 must be positive"),
        ("model.lora.dropout", 1.0, "model.lora.dropout=1.0 is not in [0, 1)"),
        ("model.lora.targets", " ,", "model.lora.targets is empty: name layers, such as query,value"),
        (
            "model.lora.targets",
            "quary",
            f"a target of model.lora.targets='quary' is none of {NAMES_OF_TARGETS}. Did you mean 'query'?",
        ),
        (
            "model.lora.init_from",
            "x",
            "model.lora.init_from='x' with model.lora.rank=0: set the rank of that adapter",
        ),
        (
            "model.base_dtype",
            "bfloat16",
            "model.base_dtype='bfloat16' with model.lora.rank=0: weights that are trained are float32; train adapters "
            "(model.lora.rank), or use model.dtype='bfloat16' to compute in bfloat16",
        ),
    ],
)
def test_adapters_that_cannot_be(path, value, message):
    assert_refused(path, value, message)


def test_a_bfloat16_base_with_adapters():
    config = two_stages()
    config.model.base_dtype, config.model.lora.rank = "bfloat16", 8
    assert resolve(config).model.lora.rank == 8
