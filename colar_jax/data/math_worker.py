"""Judges pairs of answers as mathematics, one a line: run as a program by `math_equivalence`, and never imported.

A process of its own, because an answer is hostile input: `9^{9^{9^9}}` is computed by one call into C that nothing
inside Python can interrupt. The kernel ends this process when a pair has used up its processor time (not wall time, so
that no verdict depends on how busy the machine is) or its memory.
"""

import json
import logging
import re
import resource
import signal
import sys

from math_verify import parse, verify

CPU_SECONDS_PER_PAIR = 10.0
MEMORY_BYTES = 4 * 2**30

# math-verify reads 12_8 as 12. As written numerals they are the same, but not when each names another base.
_BASE = re.compile(r"_\{?(\d+)\}?\$?$")


def answers_agree(prediction: str, answer: str) -> bool:
    """Whether math-verify takes both for the same mathematics; decimals are compared to 6 places."""
    bases = [match.group(1) for text in (prediction, answer) if (match := _BASE.search(text.strip()))]
    if len(set(bases)) > 1:
        return False
    # Its own time limits are of wall time; ours is set below.
    parsed = [parse(f"${text.strip().strip('$')}$", parsing_timeout=None) for text in (answer, prediction)]
    return all(parsed) and verify(*parsed, timeout_seconds=None)


def main() -> None:
    """Answer each line `[prediction, answer]` with `true` or `false`; the first line out says that we are ready."""
    logging.disable(logging.CRITICAL)  # it logs what it cannot read
    # A process inherits which signals are ignored, and one that has loaded libtpu ignores this one: no pair would end.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS_PER_PAIR)  # whose signal ends a process
        try:
            verdict = answers_agree(*json.loads(line))
        except (Exception, MemoryError):  # whatever a parser stumbles over is no right answer
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
