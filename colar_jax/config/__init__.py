"""Every setting of a run: frozen dataclasses, each field with its reason, each value checked once at start-up.

A config file (`configs/*.py`) fills a `ConfigDict` made by `defaults()`, flags override it, and `resolve()` makes these
dataclasses of it. All that is wrong in it is one `UserError` that names the field, the value and the fix.
"""

from colar_jax.config.beside import config_beside
from colar_jax.config.resolve import defaults, resolve, resolve_plain, stage_defaults
from colar_jax.config.rl import RlConfig
from colar_jax.config.run_settings import Config
from colar_jax.config.stage_settings import OptimizerConfig, StageConfig
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
from colar_jax.settings.on_resume import OnResume, as_before, on_resume, plain, shown, walk
from colar_jax.settings.parallel import AUTOMATIC, ParallelConfig, parse_mesh

__all__ = [
    "AUTOMATIC",
    "PLAINLY",
    "PROJECTIONS",
    "Compute",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "EvalConfig",
    "LatentHeadSettings",
    "LoraSettings",
    "ModelConfig",
    "OnResume",
    "OptimizerConfig",
    "ParallelConfig",
    "RlConfig",
    "StageConfig",
    "as_before",
    "config_beside",
    "defaults",
    "import_object",
    "is_import_path",
    "nearest",
    "on_resume",
    "parse_mesh",
    "parse_positive",
    "parse_speeds",
    "parse_targets",
    "plain",
    "resolve",
    "resolve_plain",
    "shown",
    "split_names",
    "stage_defaults",
    "unknown_name",
    "walk",
]
