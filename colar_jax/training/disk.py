"""What a disk refuses, as far as libraries hide it."""

import errno
import os

_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_REFUSALS = (*_OF_A_DISK, errno.EACCES, errno.EPERM)


def refusal_of_disk(error: BaseException | None, *, of_a_save: bool = False) -> str | None:
    """The words of the disk in an exception, or in what caused it; None where no disk refused anything.

    Libraries wrap the error, and keep of its number only the words.

    Args:
        of_a_save: whether it came of writing to a disk; of anything else "Permission denied" may be a program that
            cannot be started, and what was being handled when it was raised need not be its cause.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for number in _REFUSALS:
            words = os.strerror(number)
            is_said = words in str(error) and (of_a_save or number in _OF_A_DISK)
            if (isinstance(error, OSError) and error.errno == number) or is_said:
                return words
        error = error.__cause__ or (error.__context__ if of_a_save else None)
    return None
