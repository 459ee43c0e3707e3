"""SIGTERM (a preempted machine, a cancelled job) and Ctrl-C are requests to save and stop."""

import signal


class Interrupted(SystemExit):
    """Raised after the state was saved. The exit status is 128 + the signal's number, as a shell reports a signal."""

    def __init__(self, signal_number: int):
        super().__init__(128 + signal_number)


class InterruptionGuard:
    """While it is entered, SIGTERM and SIGINT only set `signal_number`; a second one acts as usual."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal_number: int | None = None

    def __enter__(self) -> "InterruptionGuard":
        self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    def _note(self, number, frame) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
