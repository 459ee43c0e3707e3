"""In which settings runs that stand side by side were decoded otherwise: their rows are compared all the same."""

from typing import Any

# Of `decode`, what is read where something is sampled.
OF_TEMPERATURE = ("latent_temperature", "stop_temperature", "answer_temperature")
OF_SAMPLING = (*OF_TEMPERATURE, "stop_odds_temperature", "min_latent_std", "latent_noise", "top_p")
# Settings of decoding -> the one of `eval` that lists values of them, which rows then say of themselves.
_LISTED = {
    "decode.latent_temperature": "temperatures",
    "decode.stop_temperature": "temperatures",
    "decode.answer_temperature": "temperatures",
    "decode.max_latents": "latent_limits",
    "decode.max_step_tokens": "word_budgets",
}
_OF_ROWS = "eval.trim.agreements"


def unlike_settings(settings: dict[str, dict]) -> dict[str, dict[str, Any]]:
    """The settings by name that are not the same in all runs, and the value in each run.

    Args:
        settings: by run "decode", "eval" and "data", each a group of settings, as `provenance` says them.
    """
    flat = {run: _flat(of_run) for run, of_run in settings.items()}
    names = dict.fromkeys(name for of_run in flat.values() for name in of_run)
    found = {}
    for name in names:
        values = {run: of_run[name] for run, of_run in flat.items() if name in of_run}
        is_told = all(_is_said_by_rows(name, settings[run].get("eval", {})) for run in values)
        if len(set(map(str, values.values()))) > 1 and not is_told:
            found[name] = values
    return found


def unlike_sentence(unlike: dict[str, dict[str, Any]]) -> str:
    """As in "Not decoded alike: decode.top_p is 0.9 in A and C, 1.0 in B."; empty where all runs are alike."""
    told = []
    for name, values in unlike.items():
        runs_of: dict[str, list[str]] = {}
        for run, value in values.items():
            runs_of.setdefault(str(value), []).append(run)
        values_told = [f"{value} in {' and '.join(runs)}" for value, runs in runs_of.items()]
        told.append(f"{name} is {', '.join(values_told)}")
    return f"Not decoded alike: {'; '.join(told)}." if told else ""


def _is_said_by_rows(name: str, evaluated: dict) -> bool:
    """Whether rows have a column for a setting, or nothing is sampled that would read it."""
    is_unread = evaluated.get("seeds") == 0 and name.removeprefix("decode.") in OF_SAMPLING
    return is_unread or bool(evaluated.get(_LISTED.get(name, "")))


def _flat(of_run: dict) -> dict[str, Any]:
    """What answers depend on: all of decoding, what compares answers, and what trims chains, where something does."""
    flat = {f"decode.{name}": value for name, value in of_run.get("decode", {}).items()}
    flat |= {f"data.{name}": value for name, value in of_run.get("data", {}).items()}
    trim = of_run.get("eval", {}).get("trim", {})
    if trim.get("verifier"):
        flat |= {f"eval.trim.{name}": value for name, value in trim.items() if f"eval.trim.{name}" != _OF_ROWS}
    return flat
