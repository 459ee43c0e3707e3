"""Rows of runs that were decoded otherwise are compared, and every file of the report says so."""

import dataclasses

import pytest
from report.test_differences import RESULTS

from colar_jax.config import plain
from colar_jax.report.files import Report, latex_of, markdown_of, numbers_of, tables_of
from colar_jax.report.unlike_runs import unlike_sentence, unlike_settings
from colar_jax.settings import DecodeConfig, EvalConfig
from colar_jax.settings.trim import TrimConfig

NUMERIC = {"verifier": "numeric"}


def settings(*, data=NUMERIC, trim=None, decode=None, **of_eval):
    evaluated = EvalConfig(**of_eval, trim=TrimConfig(**(trim or {})))
    return {"decode": plain(DecodeConfig(**(decode or {}))), "eval": plain(evaluated), "data": data}


def test_a_report_says_in_which_settings_its_runs_differ():
    runs = {
        "A": settings(decode={"answer_temperature": 0.05, "max_answer_tokens": 2}),
        "B": settings(data={"verifier": "exact"}),
        "C": settings(decode={"max_answer_tokens": 2}),
    }
    told = (
        "Not decoded alike: decode.max_answer_tokens is 2 in A and C, 16 in B; decode.answer_temperature is 0.05 in A, "
        "1.0 in B and C; data.verifier is numeric in A and C, exact in B."
    )
    results = [dataclasses.replace(result, run=run) for run in "ABC" for result in RESULTS]
    report = Report("t", "Three runs.", results, made={"settings": runs})
    head, _, below = markdown_of(report).partition("## Differences on the same questions")
    assert f"Three runs. {told}" in head.partition("| run |")[0], "above the tables"
    assert told in below and f"% {told}" in latex_of(report)
    numbers = numbers_of(report)
    assert told in numbers["notes"] and numbers["unlike_settings"]["data.verifier"]["B"] == "exact"
    assert numbers["unlike_settings"]["decode.answer_temperature"] == {"A": 0.05, "B": 1.0, "C": 1.0}

    alike = Report("t", "Three runs.", results, made={"settings": {run: settings() for run in "ABC"}})
    assert "Not decoded alike" not in markdown_of(alike) and "unlike_settings" not in numbers_of(alike)
    assert not any("alike" in note for table in tables_of(Report("t", "", results)) for note in table.notes)


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({"decode": {"max_latents": 8}}, {}, ["decode.max_latents"]),
        # What rows say of themselves, each limit and temperature in a column, is not said again.
        ({"decode": {"max_latents": 8}, "latent_limits": "4"}, {"latent_limits": "4"}, []),
        ({"decode": {"stop_temperature": 0.5}, "temperatures": "1"}, {"temperatures": "1"}, []),
        ({"decode": {"stop_temperature": 0.5}, "temperatures": "1"}, {}, ["decode.stop_temperature"]),
        ({"decode": {"stop_temperature": 0.5}, "seeds": 0}, {"seeds": 0}, []),
        # What trims chains is read where chains are trimmed.
        ({"trim": {"sentences": 1}}, {}, []),
        ({"trim": {"sentences": 1, "verifier": "a"}}, {"trim": {"verifier": "b", "agreements": "1,2"}},
         ["eval.trim.verifier", "eval.trim.sentences"]),
        # Reports of before had no verifier.
        ({"data": {}}, {}, []),
    ],
)  # fmt: skip
def test_what_counts_as_another_way_to_decode(first, second, names):
    unlike = unlike_settings({"A": settings(**first), "B": settings(**second)})
    assert list(unlike) == names
    assert bool(unlike_sentence(unlike)) == bool(names)
