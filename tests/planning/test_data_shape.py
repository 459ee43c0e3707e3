"""Where the data cannot be read here, every method is planned from problems of assumed lengths."""

import pytest
from cases import fast

from colar_jax.config import defaults, resolve, stage_defaults
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.methods import METHODS
from colar_jax.planning.data_shape import ASSUMED_LENGTHS, planned_data

# Methods, and settings of theirs under which they read more of an example than its length.
CASES = [*((name, {}) for name in METHODS), ("icot", {"unit": "step"}), ("icot", {"unit": "token"})]


def test_the_tokenizer_of_a_pinned_base_is_fetched_without_its_weights(tmp_path, monkeypatch):
    load_tokenizer(EMBEDDED).save(tmp_path)
    asked = []

    def download(repository, *, revision, allow_patterns, **_):
        asked.append((repository, revision))
        assert "*.json" in allow_patterns and "*.safetensors" not in allow_patterns
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    config = defaults()
    config.update(workdir="unused", run="cot")
    config.stages.cot = stage_defaults(method="cot", rows=4)
    settings = {"model.base": "owner/name@v1", "data.train_limit": 20, "data.num_val": 4, "data.num_test": 4}
    config.update_from_flattened_dict(settings)
    config = resolve(config)
    data = planned_data(config, config.stages["cot"].bound_method.recipe.prompt_speeds, 0)
    assert asked == [("owner/name", "v1")]
    assert not data.is_assumed and data.num_examples == 20
    assert data.vocabulary.num_tokens == load_tokenizer(EMBEDDED).num_tokens


@pytest.mark.parametrize("source", fast(["/nowhere/train.jsonl", "somebody/nothing-at-all"], "/nowhere/train.jsonl"))
@pytest.mark.parametrize(("method", "settings"), CASES)
def test_every_method_makes_batches_of_assumed_problems(method, settings, source, caplog, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = defaults()
    config.update(workdir="unused", run=method)
    config.data.train = source
    config.stages[method] = stage_defaults(method=method, rows=4, row_positions=256)
    config.stages[method].update({method: settings} if settings else {})
    config = resolve(config)
    stage = config.stages[method]
    data = planned_data(config, stage.bound_method.recipe.prompt_speeds, 256)
    assert data.is_assumed and "the data cannot be read here" in caplog.text
    assert abs(data.train.step_lengths.mean() - ASSUMED_LENGTHS[1]) < 1
    loader = stage.bound_method.make_loader(data.train, seed=0, rows=stage.rows, row_positions=stage.row_positions)
    assert loader.steps_per_epoch > 0
    for step in (0, loader.steps_per_epoch, 5 * loader.steps_per_epoch):
        loader.batch(step)
