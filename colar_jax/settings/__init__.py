"""Groups of settings: frozen dataclasses, each field with its reason, each value checked once at start-up.

Every floor may read its group here. What a run is made of, stages and all, is `colar_jax.config`.
"""

from colar_jax.settings.checks import nearest, parse_positive, parse_speeds, split_names
from colar_jax.settings.data import DataConfig
from colar_jax.settings.decode import DecodeConfig, EvalConfig
from colar_jax.settings.import_path import import_object, is_import_path, unknown_name
from colar_jax.settings.model import (
    PLAINLY,
    PROJECTIONS,
    Compute,
    LatentHeadSettings,
    LoraSettings,
    ModelConfig,
    parse_targets,
)
from colar_jax.settings.parallel import AUTOMATIC, ParallelConfig, parse_mesh
from colar_jax.settings.trim import TrimConfig

__all__ = [
    "AUTOMATIC",
    "PLAINLY",
    "PROJECTIONS",
    "Compute",
    "DataConfig",
    "DecodeConfig",
    "EvalConfig",
    "LatentHeadSettings",
    "LoraSettings",
    "ModelConfig",
    "ParallelConfig",
    "TrimConfig",
    "import_object",
    "is_import_path",
    "nearest",
    "parse_mesh",
    "parse_positive",
    "parse_speeds",
    "parse_targets",
    "split_names",
    "unknown_name",
]
