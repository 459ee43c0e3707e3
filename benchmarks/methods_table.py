"""Every method over several seeds, from one chain of thought, and the table of it: one command, which can be repeated.

    python benchmarks/methods_table.py runs/methods --seeds 0,1,2,3,4
    python benchmarks/methods_table.py runs/methods_codi --config configs/methods.py:codi --seeds 0,1,2
    python benchmarks/methods_table.py runs/methods --seeds 3,4 --first 0 # at the same time, once its start is there
    python benchmarks/methods_table.py runs/methods --stages no_cot,codi  # these alone; the others in a later call

The first seed trains the chain of thought too, and all others start from it: what differs between seeds is what comes
after. A seed is a run in its own folder (`<folder>/seed_<n>`), which goes on where it stopped; a finished one is not
started again, and refused where it has other settings than are asked. What follows `--` goes to `colar_jax.train` as it
is. The table has every row that a seed has, and says of how many seeds.
"""

import argparse
import json
import runpy
import subprocess
import sys
from pathlib import Path

from given_lists import known_names, seed_list

ROOT = Path(__file__).parents[1]
START = "cot"


def stages_after_the_start(config: str) -> list[str]:
    """The stages of a config that start from its chain of thought, in order."""
    path, _, argument = config.partition(":")
    given = runpy.run_path(path)["get_config"](argument)
    names = [name for name in given.run.split(",") if name != START]
    if wrong := [name for name in names if given.stages[name].init_from != START]:
        raise SystemExit(f"{config}: {', '.join(wrong)} do not start from the stage {START!r}")
    return names


def seed_folder(options: argparse.Namespace, seed: int) -> Path:
    """Where a seed's run is."""
    return options.folder / f"seed_{seed}"


def train_command(options: argparse.Namespace, seed: int, stages: list[str]) -> list[str]:
    """What trains and evaluates one seed."""
    folder = seed_folder(options, seed)
    command = [sys.executable, "-m", "colar_jax.train", f"--config={options.config}", f"--config.workdir={folder}"]
    command.append(f"--config.seed={seed}")
    own = [START, *stages] if seed == options.first else stages
    # A report is written anew: what an earlier call trained stays in it.
    shown = own + [name for name in reported(folder) if name not in own]
    command += [f"--config.run={','.join(own)}", f"--config.eval.stages={','.join(shown)}"]
    if seed != options.first:
        start = seed_folder(options, options.first) / START
        command += [f"--config.stages.{name}.init_from={start}" for name in shown]
    return command + options.rest


def reported(folder: Path) -> list[str]:
    """The stages that a run's report has."""
    path = folder / "report.json"
    rows = json.loads(path.read_text())["results"] if path.is_file() else []
    return list(dict.fromkeys(row["stage"] for row in rows))


def refuse_unfinished_start(options: argparse.Namespace) -> None:
    """All seeds start from one chain of thought, and not from wherever it is when they begin."""
    from colar_jax.errors import UserError  # here, because it takes seconds
    from colar_jax.runs.starts import unfinished

    start = seed_folder(options, options.first) / START
    try:
        place = unfinished(start)
    except UserError as error:
        raise SystemExit(f"seeds start from the chain of thought of seed {options.first}: {error}") from None
    if place:
        raise SystemExit(f"{start} is still trained ({place}), and seeds start from where it ends: begin them then")


def refuse_other_settings(options: argparse.Namespace, seed: int, stages: list[str]) -> None:
    """A finished seed with other settings is no repetition of those that are still to be trained."""
    from trained_with import other_than_asked  # here, because it takes seconds

    folder, own = seed_folder(options, seed), [START, *stages] if seed == options.first else stages
    try:
        other = other_than_asked(str(folder), train_command(options, seed, stages)[3:], own)
    except ValueError as error:
        raise SystemExit(f"{folder} is finished, and cannot be compared with what is asked: {error}") from None
    if other:
        raise SystemExit(f"{folder} is finished, with {other}: ask for what it has, or name another folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default=str(ROOT / "configs" / "methods.py"))
    parser.add_argument("--seeds", type=seed_list, default="0,1,2,3,4")
    parser.add_argument("--first", type=int, help="the seed that trains the chain of thought; default: of --seeds")
    parser.add_argument("--stages", help="of the config's, those to train; default: all")
    parser.add_argument("--against", default="no_cot", help="the stage that all others are compared with")
    # argparse takes what follows -- for the folder's neighbours only where no option stands between.
    place = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:place], argparse.Namespace(rest=sys.argv[place + 1 :]))
    options.first = options.seeds[0] if options.first is None else options.first
    stages = stages_after_the_start(options.config)
    if options.stages:
        try:
            asked = known_names(options.stages, tuple(stages))
        except argparse.ArgumentTypeError as error:
            parser.error(f"--stages: {error}")
        stages = [name for name in stages if name in asked]
    known = dict.fromkeys(stages + [name for seed in options.seeds for name in reported(seed_folder(options, seed))])
    if options.against.partition("@")[0] not in known:
        parser.error(f"--against={options.against}: not one of the stages that are trained: {', '.join(known)}")
    for seed in options.seeds:
        if set(stages) <= set(reported(seed_folder(options, seed))):
            refuse_other_settings(options, seed, stages)
            continue
        if seed != options.first:
            refuse_unfinished_start(options)
        if (status := subprocess.run(train_command(options, seed, stages), check=False).returncode) != 0:
            raise SystemExit(f"seed {seed} ended with status {status} (above is why): the same command goes on with it")
    folders = [str(seed_folder(options, seed)) for seed in options.seeds]
    script = str(ROOT / "benchmarks" / "over_seeds.py")
    table = [sys.executable, script, *folders, f"--against={options.against}", "--costs"]
    raise SystemExit(subprocess.run(table, check=False).returncode)


if __name__ == "__main__":
    main()
