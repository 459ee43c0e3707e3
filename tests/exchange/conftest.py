"""A run in each of its forms, and the folder that it was exported to."""

import pytest
from exchange.tiny_run import LORA, given_run

from colar_jax.exchange.folder import export_stage

FORMS = {"all weights": {}, "adapters": {"lora": LORA}}


@pytest.fixture(scope="module", params=list(FORMS))
def exported(request, tmp_path_factory):
    """A run, its weights, and the folder that it was exported to."""
    workdir = tmp_path_factory.mktemp("run")
    run, parameters = given_run(workdir, **FORMS[request.param])
    return run, parameters, export_stage(run, "colar", workdir / "exported")
