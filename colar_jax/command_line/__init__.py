"""From the words of a command line to a checked config and the command's own flags.

`python -m colar_jax.train --config=file.py:argument --config.some.setting=value --own_flag=value`
"""

from colar_jax.command_line.config_source import ASKED, CONFIG, MODEL, RUN, RUNS
from colar_jax.command_line.flags import flag
from colar_jax.command_line.program import run_main
from colar_jax.command_line.question_lines import question_lines

__all__ = ["ASKED", "CONFIG", "MODEL", "RUN", "RUNS", "flag", "question_lines", "run_main"]
