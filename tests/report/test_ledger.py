"""The ledger: complete, its commands are real, and a run meets its own rows and no other's."""

import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from colar_jax.config import resolve
from colar_jax.report.ledger import compare, compare_run, comparison_table, ledger_page
from colar_jax.report.published_results import LLAMA, MEAN, PUBLISHED

ROOT = Path(__file__).parents[2]


def run_of(row, *, shift: float = 0.0, **changes) -> tuple[dict, dict]:
    """Config and report of a run that measured what a row says, `shift` points higher."""
    path, _, argument = row.command.split()[0].removeprefix("--config=").partition(":")
    config = runpy.run_path(str(ROOT / path))["get_config"](argument)
    for flag in row.command.split()[1:]:
        name, _, value = flag.removeprefix("--config.").partition("=")
        given = value == "True" if value in ("True", "False") else value
        config.update_from_flattened_dict({name: given})
    config.update_from_flattened_dict(changes)
    stage = resolve(config).stage_names[-1]

    def numbers(dataset: str) -> dict:
        accuracy, length = row.cells[dataset]
        return {
            "stage": stage, "dataset": dataset, "speed": row.speed, "sampling": "sampled",
            "accuracy_over_seeds": {"center": (accuracy + shift) / 100}, "mean_length": length or 0.0,
        }  # fmt: skip

    results = [numbers(dataset) for dataset in row.cells if dataset != MEAN]
    means = [numbers(MEAN)] if MEAN in row.cells else []
    return dataclasses.asdict(resolve(config)), {"results": results, "means": means}


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_a_run_of_a_rows_command_is_compared_with_that_row(row):
    found = compare(*run_of(row))
    assert {one.published.name for one in found} == {row.name}
    assert {one.dataset for one in found} == set(row.cells) and all(one.agrees for one in found)


def test_the_commands_can_be_run_one_after_another():
    """Two rows that are not of one run do not share a folder, where the second would be refused."""
    commands = {}
    for row in PUBLISHED:
        config, _ = run_of(row)
        assert commands.setdefault(config["workdir"], row.command) == row.command, row.name


def test_tolerances():
    row = next(row for row in PUBLISHED if row.name == "CoLaR c=5")
    assert all(one.agrees for one in compare(*run_of(row, shift=2.9)))
    assert not any(one.agrees for one in compare(*run_of(row, shift=-3.1)))
    config, report = run_of(row)
    report["results"][0]["mean_length"] *= 1.2
    (gsm8k,) = [one for one in compare(config, report) if one.dataset == "gsm8k"]
    assert not gsm8k.agrees
    assert "| CoLaR c=5 | gsm8k | colar | 26.80 / 6.68 | 26.8 / 5.57 | NO |" in comparison_table([gsm8k])


def test_another_base_is_no_row():
    row = PUBLISHED[0]
    assert row.base == LLAMA
    with pytest.raises(ValueError, match="no row of the ledger is of this run: base 'my/model'"):
        compare(*run_of(row, **{"model.base": "my/model"}))


def test_a_runs_folder(tmp_path):
    row = PUBLISHED[0]
    with pytest.raises(ValueError, match="has no report.json: evaluate the run first"):
        compare_run(tmp_path)
    for name, content in zip(("config.json", "report.json"), run_of(row), strict=True):
        (tmp_path / name).write_text(json.dumps(content))
    assert compare_run(tmp_path).count("| yes |") == 5


def test_every_published_number_is_there():
    """As many as the paper has: 6 rows of 4 sets and their mean, 8 ablations of 2, MATH 5 rows of 2 bases."""
    assert sum(len(row.cells) for row in PUBLISHED) == 6 * 5 + 8 * 2 + 5 * 2
    for row in PUBLISHED:
        whole = {dataset for dataset in row.cells if dataset != MEAN}
        if len(whole) == 4:
            mean = sum(row.cells[dataset][0] for dataset in whole) / 4
            assert mean == pytest.approx(row.cells[MEAN][0], abs=0.2)  # the paper's own at c = 5 is 0.17 off


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "ledger.md").read_text() == ledger_page()
