"""Set-up: everything from checking A and b to the first projection."""

import projlab
from benchmarks import common, parameters
from benchmarks.memory import held_bytes


class Factorisation:
    """`projector(A, b)`, by variant."""

    params = (
        common.VARIANTS,
        ("1x10", "3x10", "10x100", "100x1000", "10x10000", "500x2000"),
        parameters.DTYPES,
        parameters.DEVICES,
    )
    param_names = ("variant", "size", "dtype", "device")

    def setup(self, variant, size, dtype, device):
        self.case = common.system(size, dtype, device)
        common.projector(self.case, variant)
        self.synchronize = common.synchroniser(device)

    def time_projector(self, variant, size, dtype, device):
        projlab.projector(self.case.A, self.case.b, variant)
        self.synchronize()

    def peakmem_projector(self, variant, size, dtype, device):
        projlab.projector(self.case.A, self.case.b, variant)

    def track_memory_held(self, variant, size, dtype, device):
        P = projlab.projector(self.case.A, self.case.b, variant)
        matrix = self.case.A.numel() * self.case.A.element_size()
        return held_bytes(P, besides=(P.A, P.b)) / matrix

    track_memory_held.unit = "W"  # type: ignore[attr-defined]  # asv reads it from the function


class OneOff:
    """`project(x, A, b)`: one shot, nothing kept."""

    params = (
        common.VARIANTS,
        ("1x10", "3x10", "10x100", "100x1000", "10x10000"),
        parameters.DTYPES,
        parameters.DEVICES,
    )
    param_names = ("variant", "size", "dtype", "device")

    def setup(self, variant, size, dtype, device):
        self.case = common.system(size, dtype, device)
        P = common.projector(self.case, variant)
        common.require_exact(self._run(variant), self.case, P)
        self.synchronize = common.synchroniser(device)

    def _run(self, variant):
        return projlab.project(self.case.x0, self.case.A, self.case.b, variant)

    def time_project(self, variant, size, dtype, device):
        self._run(variant)
        self.synchronize()
