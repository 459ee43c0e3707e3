"""The latent head's small file beside its weights."""

import dataclasses
import json
import math

import pytest

from colar_jax.errors import UserError
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.weights.latent_head_file import HEAD_CONFIG_FILE, read_embed_std, read_head_config

PUBLISHED = LatentHeadConfig(8, min_log_std=-math.inf, max_log_std=math.inf)


def written(folder, **changed):
    facts = dataclasses.asdict(PUBLISHED) | {"embed_std": 0.018} | changed
    (folder / HEAD_CONFIG_FILE).write_text(json.dumps(facts))
    return folder


def test_bounds_may_be_infinite_as_the_published_ones_are(tmp_path):
    assert read_head_config(written(tmp_path)) == PUBLISHED and read_embed_std(tmp_path) == 0.018


@pytest.mark.parametrize(
    "changed", [{"intermediate_size": 0}, {"deterministic": 1}, {"min_log_std": math.nan}, {"embed_std": -1.0}]
)
def test_what_cannot_be_is_refused_by_its_name(changed, tmp_path):
    (name,) = changed
    with pytest.raises(UserError, match=f"latent_head.json: {name}=.*: expected"):
        read_head_config(written(tmp_path, **changed))
