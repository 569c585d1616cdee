"""Workers for tests: forked, so that they need not import torch again and keep what is patched."""

import contextlib
import faulthandler
import functools
import os

import torch

import projlab_validation.oracles.cvx  # noqa: F401  # once, and not again in every worker
from projlab_validation import runner


def _count_threads_and_start_none():
    """In a forked process threads wait for ever for those that the parent started before."""
    number = [torch.get_num_threads()]
    torch.set_num_threads = functools.partial(number.__setitem__, 0)
    torch.get_num_threads = lambda: number[0]


class Forked:
    """Stands for what `runner.start_process` returns."""

    def __init__(self):
        (read, write), (hear, tell) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(write, "wb", 0), os.fdopen(hear, "rb", 0)
        self.pid = os.fork()
        if not self.pid:
            try:
                faulthandler.disable()  # pytest's; a crash that is meant is no news
                self.stdin.close()
                os.setpgid(0, 0)
                os.dup2(read, 0)
                os.dup2(tell, 1)
                _count_threads_and_start_none()
                runner.serve()
            finally:
                os._exit(70)
        with contextlib.suppress(OSError):  # the worker was faster
            os.setpgid(self.pid, self.pid)
        os.close(read)
        os.close(tell)
        self.code = None

    def poll(self, flag=os.WNOHANG):
        if self.code is None:
            pid, status = os.waitpid(self.pid, flag)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, timeout=None):
        return self.poll(0)
