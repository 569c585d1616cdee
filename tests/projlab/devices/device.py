"""The device that tests marked `gpu` run on: CUDA where there is one, or a pretended one."""

import contextlib

import torch


class OnCuda:
    """What tests ask of a device."""

    type = "cuda"

    def __init__(self):
        self.device = torch.device("cuda", torch.cuda.current_device())

    @contextlib.contextmanager
    def in_use(self):
        """Inside, tensors can be made on the device."""
        yield self

    @contextlib.contextmanager
    def no_waits(self):
        """Inside, what makes the host wait is an error."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def captured(self, step):
        """A graph of a call, to be replayed."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph

    def operators(self, call):
        """How many kernels a call launches."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        return sum(event.count for event in profile.key_averages())


def unavailable(name):
    """Why tests cannot run on a device of this name, or None."""
    if name == "cuda":
        none = "no CUDA here; `make test-device` runs it on a pretended device"
        return None if torch.cuda.is_available() else none
    from tests.projlab.devices import pretended

    return pretended.unavailable()


def device(name):
    """The device of this name."""
    if name == "cuda":
        return OnCuda()
    from tests.projlab.devices.pretended import OnPretended

    return OnPretended()
