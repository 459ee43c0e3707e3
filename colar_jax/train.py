"""Train a run, evaluate it, print its table: `python -m colar_jax.train --config=configs/arithmetic.py`.

The same command again goes on from where it stopped.
"""

from colar_jax import pipeline
from colar_jax.command_line import run_main

if __name__ == "__main__":
    run_main(pipeline.train)
