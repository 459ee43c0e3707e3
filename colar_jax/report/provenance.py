"""Where a report comes from: when it was made, by which code, on which devices."""

import datetime
import os
import subprocess
from pathlib import Path

import jax
import jaxlib

import colar_jax


def provenance(
    seeds: dict[str, int],
    num_eval_seeds: int,
    settings: dict[str, dict],
    unfinished: dict[str, dict[str, str]] | None = None,
) -> dict:
    """What `report.json` says under "made".

    Args:
        seeds: the seed of each run by its name ("" for a lone one).
        num_eval_seeds: how many times sampled rows are decoded, with the seeds 0, 1, ...
        settings: by run those of decoding and evaluating, and what compares answers: flags of `evaluate` may differ
            from the run's config.json.
        unfinished: by run the stages that have not taken all their steps, and where each stands.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": colar_jax.__version__,
        "git_commit": git_commit(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "num_devices": jax.device_count(),
        "seeds": {"training": seeds, "decoding": list(range(num_eval_seeds))},
        "settings": settings,
        "unfinished": unfinished or {},
    }


def git_commit(package: Path | None = None) -> str | None:
    """The commit of the checkout that the package is in, with "-dirty" where files differ from it; None elsewhere.

    An installed package in a folder that is itself inside some other checkout is not of that checkout's commit.
    """
    package = package or Path(colar_jax.__file__).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=package, env=environment, capture_output=True, encoding="utf-8", timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "--error-unmatch", "__init__.py"):
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
