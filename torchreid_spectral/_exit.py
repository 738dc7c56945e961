"""How a command that trains or tests ends: messages and exit statuses."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from torchreid_spectral.errors import InputError, RunError

__all__ = ["exit_status"]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
         errno.EISDIR, errno.ENOTDIR, errno.EEXIST)  # fmt: skip
"""What the operating system says of a disk that is full or closed, or of a name that is taken."""


def exit_status(run: Callable[[], object], remedy: str) -> int:
    """Run a command, and say on standard error what the user can do where it fails.

    Args:
        run: The command.
        remedy: What to do where a disk is full or closed.

    Returns:
        0; 2 where the user can mend something; 1 where the run could not go on; 128 and the
        signal's number where it was told to stop.

    Raises:
        OSError: If it is of no disk that is full or closed.
    """  # noqa: DOC502
    try:
        run()
    except InputError as error:
        _say(f"error: {error}")
        return 2
    except RunError as error:
        signum: int = getattr(error, "signum", 0)
        _say(str(error) if signum else f"error: {error}")
        return 128 + signum if signum else 1
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = error.filename or "a file"
        _say(f"error: {place} cannot be written ({error.strerror}). {remedy}")
        return 1
    except KeyboardInterrupt:  # before training has begun, or for the second time
        return 130
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
