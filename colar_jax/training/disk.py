"""What a disk refuses, and what it has lost, as far as libraries hide it."""

import errno
import json
import os
import pathlib

_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def refusal_of_disk(error: BaseException | None) -> str | None:
    """The words of the disk in an exception, or in what caused it; None where no disk refused anything.

    Libraries wrap the error, and keep of its number only the words.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for number in _REFUSALS:
            words = os.strerror(number)
            if (isinstance(error, OSError) and error.errno == number) or words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return None


def step_without_json(folder: pathlib.Path) -> int | None:
    """The first step whose metrics or metadata are no JSON object; None where there is none such."""
    for path in sorted([*folder.glob("[0-9]*/metrics/metrics"), *folder.glob("[0-9]*/_CHECKPOINT_METADATA")]):
        try:
            is_object = isinstance(json.loads(path.read_bytes()), dict)
        except ValueError:
            is_object = False
        if not is_object:
            return int(path.relative_to(folder).parts[0])
    return None
