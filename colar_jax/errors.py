"""Mistakes of the user, as opposed to bugs of the program."""


class UserError(ValueError):
    """A mistake of the user: a setting, a file or a command that cannot work as it is.

    Commands print it as one line and end with status 2 (of several processes 78: `parallel.hosts`). The message names
    the setting or the file and its place, the value, and what to do. Any other exception, another `ValueError`
    included, is a fault of the program and shows its traceback.
    """


# What to change where XLA says RESOURCE_EXHAUSTED.
NO_MEMORY = (
    "the device has too little memory for this; colar_jax.plan says what takes it. To need less: model.remat=full, "
    "stages.<stage>.accumulation, model.dtype and model.base_dtype, more devices in parallel.mesh; to decode, a "
    "smaller eval.batch_size; to serve, a smaller --slots, --max_prompt or --max_latents"
)


def no_memory(error: BaseException) -> str:
    """The sentence for an error of a device that has no memory left; "" for any other."""
    if type(error).__name__ != "JaxRuntimeError" or "RESOURCE_EXHAUSTED" not in str(error):
        return ""
    return f"{NO_MEMORY} ({' '.join(str(error).split())[:200]})"


class TrainingEnded(RuntimeError):
    """Training that cannot go on, by what it has learned: commands print the message, and end with status 1."""
