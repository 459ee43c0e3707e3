"""Compiled programs are kept between commands, in `~/.cache/colar_jax`: most of a short command is compiling.

Any of these says otherwise: `--config.compilation_cache` (`off`, or another folder) and jax's own variables
`JAX_COMPILATION_CACHE_DIR` (also when it is empty) and `JAX_ENABLE_COMPILATION_CACHE`.
"""

import hashlib
import logging
import os
import platform
import tempfile
import warnings
from pathlib import Path

import jax

logger = logging.getLogger(__name__)

AUTO, OFF = "auto", "off"
_SETTINGS = {
    "jax_compilation_cache_max_size": 4 << 30,  # the programs that were used last stay
    "jax_persistent_cache_min_compile_time_secs": 0.3,  # what compiles in less is not worth a file
}
_OF_JAX = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def use_compilation_cache(setting: str) -> Path | None:
    """Keep what this process compiles, and take what others kept. A folder that cannot be written is done without.

    Several processes may use one folder: an entry is taken whole, or compiled again.

    Args:
        setting: `auto`, `off`, or a folder.

    Returns:
        The folder; None where there is no cache, or it is jax's variables that say which.
    """
    if setting == OFF or any(name in os.environ for name in _OF_JAX) or jax.config.jax_compilation_cache_dir:
        return None
    folder = _default_folder() if setting == AUTO else Path(os.path.expanduser(setting))
    if reason := _why_not_written(folder):
        logger.info("compiled programs are not kept: %s (%s)", folder, reason)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in _SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    # A disk that is full, a file that is cut short: jax says so in a paragraph for each program, and compiles.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
    return folder


def _default_folder() -> Path:
    """Programs for a CPU are for the instructions of that CPU, and a home may be shared by machines that differ."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    machine = hashlib.sha256(f"{platform.machine()} {_instructions()}".encode()).hexdigest()[:12]
    return Path(os.path.expanduser(cache)) / "colar_jax" / f"jax-{jax.__version__}-{machine}"


def _instructions() -> str:
    """What distinguishes one CPU's instructions from another's, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _why_not_written(folder: Path) -> str:
    """Why nothing can be kept in a folder, which is made; empty where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except (OSError, RuntimeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""
