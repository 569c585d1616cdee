"""One process at a time on a run's folder: a lock of the system's, which no kill leaves behind.

The system gives the lock up when the process that holds it ends, however it ends; the file that is
left says who that was, and is taken over by the next.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path

from projlab import InputError

NAME = ".projlab-lock"


class Lock:
    """A folder's lock, held from `take` to `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, folder: Path) -> Lock:
        """Take the lock of a folder.

        Raises
        ------
        InputError
            Another process holds it; the message says which.
        """
        path = folder / NAME
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                _lock(descriptor)
            except BlockingIOError as error:
                who = _holder(descriptor)
                os.close(descriptor)
                raise InputError(
                    f"{folder} is in use by {who}; wait for it to end, or give --out another folder"
                ) from error
            except OSError as error:  # some network file systems know no locks
                warnings.warn(
                    f"{folder} cannot be locked ({error.strerror}): see to it that no other run "
                    "writes there",
                    stacklevel=2,
                )
            # Whoever held it may have removed the file since it was opened: then it locks nothing.
            if _same_file(descriptor, path):
                break
            os.close(descriptor)
        held_by = {
            "process": os.getpid(),
            "host": os.uname().nodename,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(held_by).encode(), 0)
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lock up, and remove its file."""
        if self._descriptor is None:
            return
        if _same_file(self._descriptor, self.path):
            self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _lock(descriptor: int) -> None:
    """Lock an open file at once; `BlockingIOError` where another process has."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(descriptor: int) -> str:
    """Say who holds the lock of an open file."""
    try:
        who = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {who['process']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not said yet
        return "another process"


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
