"""What a disk refuses, as far as libraries hide it."""

import errno
import os

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
