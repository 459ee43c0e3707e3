"""What benchmarks/over_seeds.py averages: the results of reports by how they came about, and what is no repetition."""

from pathlib import Path
from typing import Any, NamedTuple

from colar_jax.json_object import read_json_object
from colar_jax.report.unlike_runs import OF_SAMPLING, OF_TEMPERATURE


class Way(NamedTuple):
    """What makes a row: results that differ in any of these are never averaged."""

    dataset: str
    run: str  # of a report of several runs; "" for one
    stage: str
    speed: str
    latent_limit: str
    temperature: str
    trim: str

    @property
    def is_plain(self) -> bool:
        """Whether it is a stage as its run decodes it."""
        return (self.latent_limit, self.temperature, self.trim) == ("-", "-", "-")


Rows = dict[Way, list[dict]]
BEFORE = {"run": "", "trim": "-"}  # what older reports do not say
# Settings of decoding that a row may have instead of its run's.
OF_LIMIT = ("max_latents", "max_step_tokens")
# Of these a row may be a mean over several, and then it is said: what they change is not known.
TOLD = ("git_commit", "jax", "devices", "decodes of a question")


def rows_of(folders: list[str], sampling: str) -> Rows:
    """The results of every way to decode, one of each folder that has it.

    Raises:
        ValueError: two folders were asked other questions; or the results of a row are no repetitions of each other: of
            one training seed, or trained or decoded with other settings.
    """
    rows: Rows = {}
    for folder in folders:
        report = read_json_object(Path(folder) / "report.json")
        for result in report["results"]:
            if result["sampling"] == sampling:
                way = Way(*((BEFORE | result)[name] for name in Way._fields))
                rows.setdefault(way, []).append(result | _origin(folder, report, way, result))
    _refuse_other_questions(rows)
    for way, results in rows.items():
        _refuse_one_seed_twice(way, results)
        _refuse_other_settings(way, results)
    return rows


def _origin(folder: str, report: dict, way: Way, result: dict) -> dict:
    """Where a result comes from, with the tests of whether its latents are used: they are of plain greedy chains."""
    made, is_greedy = report.get("made", {}), result["sampling"] == "greedy"
    tests = [test for test in report.get("causal", ()) if is_greedy and way.is_plain and _is_of(test, way)]
    settings = _decoded_with(made.get("settings", {}).get(way.run, {}), way, is_greedy=is_greedy)
    told = {name: made[name] for name in TOLD if name in made} | {"decodes of a question": result.get("num_seeds", 1)}
    return {
        "folder": folder,
        "training_seed": _training_seed(made, way),
        "causal": tests,
        "settings": settings | ({"method": result["method"]} if "method" in result else {}),
        "told": told,
    }


def _is_of(test: dict, way: Way) -> bool:
    return all(test.get(name, "") == getattr(way, name) for name in ("dataset", "run", "stage", "speed"))


def _training_seed(made: dict, way: Way) -> str:
    """The seed that a row's run was trained with, as a text; "" where its report does not say it."""
    seed = made.get("seeds", {}).get("training", {}).get(way.run)
    return "" if seed is None else f"seed {seed}"


def _decoded_with(settings: dict, way: Way, *, is_greedy: bool) -> dict[str, Any]:
    """Of a report's settings those that a row depends on, by name; none of a report that does not say them."""
    own = (OF_SAMPLING if is_greedy else ()) + (OF_TEMPERATURE if way.temperature != "-" else ())
    own += OF_LIMIT if way.latent_limit != "-" else ()
    decode = {f"decode.{name}": value for name, value in settings.get("decode", {}).items() if name not in own}
    trim = settings.get("eval", {}).get("trim", {}) if way.trim != "-" else {}
    # All numbers of agreements that were asked for; the row's own is in its way.
    return decode | {f"eval.trim.{name}": value for name, value in trim.items() if name != "agreements"}


def _refuse_other_questions(rows: Rows) -> None:
    asked: dict[str, dict[str, str]] = {}  # by data set, a folder of each list of questions
    for way, results in rows.items():
        for result in results:
            asked.setdefault(way.dataset, {}).setdefault(result["questions"], result["folder"])
    for dataset, folders_of in asked.items():
        if len(folders_of) > 1:
            first, second, *_ = folders_of.values()
            raise ValueError(f"{first} and {second} were asked other questions of {dataset}: they are no repetitions")


def _refuse_one_seed_twice(way: Way, results: list[dict]) -> None:
    folders: dict[str, str] = {}
    for result in results:
        seed, folder = result["training_seed"], result["folder"]
        if seed and seed in folders:
            raise ValueError(
                f"{folders[seed]} and {folder} both have {way.stage} of training {seed} in the same row: one seed is "
                "no repetition of itself"
            )
        folders[seed] = folder


def _refuse_other_settings(way: Way, results: list[dict]) -> None:
    """ValueError where a row's results differ in what their reports, and configs that lie beside them, say."""
    known: dict[str, tuple[Any, str]] = {}  # by setting its value, and a folder that has it
    for result in results:
        for name, value in (result["settings"] | _trained_with(result["folder"], way)).items():
            before, folder = known.setdefault(name, (value, result["folder"]))
            if before != value:
                raise ValueError(
                    f"{way.stage} has {name}={before!r} in {folder} and {value!r} in {result['folder']}: they are no "
                    "repetitions"
                )


def _trained_with(folder: str, way: Way) -> dict[str, Any]:
    """What a row's stage was trained with, where the report lies in the folder of its run."""
    if way.run or not (Path(folder) / "config.json").is_file():
        return {}
    from trained_with import config_in, settings_of  # here, because it takes seconds

    config = config_in(folder)
    return settings_of(config, way.stage) if way.stage in config.stages else {}


def told_of(rows: Rows) -> str:
    """What differs between the results of a row though it may, as a sentence; "" where nothing does."""
    found: dict[str, dict[str, None]] = {}
    for results in rows.values():
        for name in TOLD:
            values = dict.fromkeys(_text(result["told"][name]) for result in results if name in result["told"])
            if len(values) > 1:
                found.setdefault(name, {}).update(values)
    facts = "; ".join(f"{name} ({', '.join(values)})" for name, values in found.items())
    return f"Seeds of one row differ in {facts}." if facts else ""


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
