"""Rows of a data set on the Hugging Face hub: what needs a network, until the set lies in the cache of `datasets`."""

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from colar_jax.errors import UserError

HubRow = Mapping[str, Any]


class Unreachable(UserError):
    """A set that cannot be loaded here: there is no network, or no such set."""


def configuration_of(name: str) -> tuple[str, str | None]:
    """The repository and the configuration of `<owner/name>:<configuration>`; None: the set's only one, or default."""
    repository, colon, subset = name.rpartition(":")
    if not colon or "/" in subset or os.path.isdir(name):  # a folder may have a colon in its name
        return name, None
    if not subset:
        raise UserError(f"hub:{repository}: names no configuration after the last colon")
    return repository, subset


def splits_on_hub(repository: str, subset: str | None) -> list[str]:
    """The splits of a set, or of one of its configurations.

    Raises:
        UserError: it has no such configuration, several and none is named, or cannot be loaded (`Unreachable`).
    """
    import datasets  # here, because it takes a second and only hub sources need it

    with _explain_failure(repository):
        try:
            return datasets.get_dataset_split_names(repository, subset)
        except ValueError:  # also where it is not the configuration that is at fault
            _refuse_configuration(repository, subset, datasets.get_dataset_config_names(repository))
            raise


def _refuse_configuration(repository: str, subset: str | None, present: list[str]) -> None:
    """UserError where a set has other configurations than the one that is named, or several and none is named."""
    if subset is None and len(present) > 1:
        example = f"hub:{repository}:{present[0]}"
        raise UserError(f"hub:{repository} has several configurations, {', '.join(present)}: name one, as in {example}")
    if subset is not None and subset not in present:
        nearest = difflib.get_close_matches(subset, present, n=1)
        meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UserError(f"hub:{repository} has no configuration {subset!r}, only {', '.join(present)}{meant}")


def load_rows(repository: str, subset: str | None, split: str) -> Iterable[HubRow]:
    """The rows of a split, which may be a slice ("train[:90%]"). `Unreachable` where it cannot be loaded."""
    import datasets

    with _explain_failure(repository):
        return datasets.load_dataset(repository, subset, split=split)


@contextlib.contextmanager
def _explain_failure(repository: str) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    except UserError:
        raise
    # No network; no such set, subset or split; a broken file.
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        advice = "load it once where there is a network, or name a local file"
        said = " ".join(str(error).split())
        raise Unreachable(f"hub data set {repository!r} cannot be loaded ({said}): {advice}") from error
