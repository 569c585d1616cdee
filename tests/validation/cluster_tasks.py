"""Tasks that a cluster's workers find hard."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from projlab_validation.runner import Task


@dataclass(frozen=True)
class Deadly(Task):
    """Kills the Dask worker that measures it, the first times."""

    marks: Path
    times: int

    def rows(self, tell):
        """As a task does, after so many deaths."""
        died = len(list(self.marks.iterdir()))
        if died < self.times:
            (self.marks / str(died)).touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        yield from super().rows(tell)
