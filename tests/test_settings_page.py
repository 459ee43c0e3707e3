"""docs/settings.md, and what is said to those who look for a setting under another name."""

import dataclasses
from pathlib import Path

import pytest

from colar_jax.config import Config, StageConfig, plain
from colar_jax.config.names import OTHER_NAMES, what_is_meant
from colar_jax.config.reference import field_comments, settings
from colar_jax.config.settings_page import settings_page
from colar_jax.methods import METHODS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
PATHS = {setting.path for setting in settings()}


def test_the_page_is_that_of_the_source():
    made = "python -m colar_jax.config.settings_page > docs/settings.md"
    assert PAGE.read_text(encoding="utf-8") == settings_page() + "\n", f"make it anew: {made}"


def test_every_setting_is_listed_with_its_default_and_says_what_it_is():
    stages = {name: StageConfig(method=name) for name in METHODS} | {"rl": StageConfig(method="colar", trainer="grpo")}
    shown_by = {method.group: name for name, method in METHODS.items() if method.group} | {"rl": "rl"}
    for setting in settings():
        value = plain(Config(run="cot,colar", stages=stages))
        group = setting.path.split(".")[2] if setting.path.startswith("stages.") else ""
        for part in setting.path.replace("<stage>", shown_by.get(group, "cot")).split("."):
            value = value[part]
        assert setting.default == value, setting.path
        assert setting.comment, f"{setting.path} has no comment"


@dataclasses.dataclass(frozen=True)
class Group:
    """A group."""

    plain: int = 1
    behind: int = 2  # behind it
    # Before it,
    # in two lines.
    before: int = 3
    # Before it
    both: str = "# no comment"  # and behind it.
    long: str = "a"  # in the middle

    def method(self):
        # None of a field's.
        local: int = 4  # nor this
        return local


def test_comments_of_fields():
    assert field_comments(Group) == {
        "plain": "",
        "behind": "behind it",
        "before": "Before it, in two lines.",
        "both": "Before it and behind it.",
        "long": "in the middle",
    }


def test_every_other_name_leads_to_a_setting():
    for name, place in OTHER_NAMES.items():
        assert place.replace("*", "<stage>") in PATHS, name
        assert name == name.lower() and "." not in name
    assert list(OTHER_NAMES) == sorted(OTHER_NAMES)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("learning_rate", "stages.<stage>.optimizer.learning_rate"),  # exists, elsewhere
        ("learning-rate", "stages.<stage>.optimizer.learning_rate"),
        ("lerning_rate", "stages.<stage>.optimizer.learning_rate"),
        ("lr", "stages.<stage>.optimizer.learning_rate"),
        ("LR", "stages.<stage>.optimizer.learning_rate"),
        ("batch_size", "stages.<stage>.rows"),
        ("per_device_train_batch_size", "stages.<stage>.rows"),
        ("num_train_epochs", "stages.<stage>.epochs"),
        ("gradient_accumulation_steps", "stages.<stage>.accumulation"),
        ("max_length", "stages.<stage>.row_positions"),
        ("warmup_ratio", "stages.<stage>.optimizer.warmup_steps"),
        ("fp16", "model.dtype"),
        ("bf16", "model.dtype"),
        ("output_dir", "workdir"),
        ("lora_r", "model.lora.rank"),
        ("beta", "stages.<stage>.rl.beta"),
        ("num_generations", "stages.<stage>.rl.num_generations"),
        ("top_p", "decode.top_p"),
        ("max_latnets", "decode.max_latents"),
    ],
)
def test_a_setting_by_the_name_that_others_give_it(name, place):
    assert what_is_meant(name) == f" The setting is config.{place}."
    assert what_is_meant(f"config.{name}") == what_is_meant(name)
    in_stage = what_is_meant(f"config.stages.cot.{name}")
    assert in_stage == f" The setting is config.{place.replace('<stage>', 'cot')}."


def test_the_runs_stages_are_named():
    said = what_is_meant("lr", stages=["cot", "colar", "rl"])
    assert said == " The setting is config.stages.cot.optimizer.learning_rate (or of another stage: colar, rl)."
    assert what_is_meant("output_dir", stages=["cot", "colar"]) == " The setting is config.workdir."


def test_nearest_in_the_group_comes_before_nearest_in_the_tree():
    assert what_is_meant("config.stages.cot.stepz", ["steps", "rows"]) == " Did you mean 'steps'?"
    assert what_is_meant("config.qqqqq", ["title"]) == ""
