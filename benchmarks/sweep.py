"""How fast a sweep decodes, and how much of its time the host takes.

    python benchmarks/sweep.py --data=<folder with train, val and test of GSM8K> --tokenizer=<folder or hub id>

A CoLaR stage of random weights (preset micro: hidden 384, 6 layers, with the tokenizer's vocabulary) answers every test
question at 5 speeds with 5 seeds. Random weights hardly ever stop thinking, so that every answer has `--latents`
latents and `--answer-tokens` tokens: fixed work. Printed: examples a second, the host's share of the time (packing,
reading, judging and writing down; the device works meanwhile), and how many programs were compiled.
"""

import argparse
import json
import tempfile
from pathlib import Path

from colar_jax.config import defaults, resolve, stage_defaults
from colar_jax.report.files import read_report
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt
from colar_jax.runs.sweep.sweep import sweep


def get_config(arguments: argparse.Namespace, workdir: Path):
    config = defaults()
    config.workdir = str(workdir)
    config.run = "colar"
    config.stages.colar = stage_defaults(method="colar")
    config.stages.colar.latent.speeds = "1,2,3,5"
    config.model.preset = arguments.preset
    config.data.update(
        train=arguments.data, tokenizer=arguments.tokenizer, train_limit=64, num_val=8, num_test=arguments.questions
    )
    config.data.allow_overlap = True  # nothing is learned
    config.decode.update(max_latents=arguments.latents, max_answer_tokens=arguments.answer_tokens)
    config.eval.update(speeds=arguments.speeds, seeds=arguments.seeds, greedy=False, batch_size=arguments.batch_size)
    return resolve(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--preset", default="micro")
    parser.add_argument("--questions", type=int, default=0, help="0: all")
    parser.add_argument("--speeds", default="1,1.5,2,3,5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--latents", type=int, default=12)
    parser.add_argument("--answer-tokens", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = get_config(arguments, Path(folder) / "run")
        run = prepare(config)
        adopt(run, "colar", run.initial_parameters())
        sweep([config])
        report = read_report(config.workdir)
    lengths = [result["mean_length"] for result in report["results"]]
    print(json.dumps({"questions": report["results"][0]["num_questions"], "lengths": lengths} | report["timing"]))


if __name__ == "__main__":
    main()
