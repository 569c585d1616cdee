"""Many vectors at once: points that share A, and systems with an A each."""

from benchmarks import common, parameters


class Shared:
    """k points, one A."""

    params = (
        common.VARIANTS,
        ("1x10", "3x10", "10x100", "100x1000"),
        (32, 1024),
        parameters.DTYPES,
        parameters.DEVICES,
    )
    param_names = ("variant", "size", "points", "dtype", "device")

    def setup(self, variant, size, points, dtype, device):
        self.case = common.system(size, dtype, device, points=points)
        self.P = common.projector(self.case, variant)
        self.x = self.case.x0.clone()
        self.synchronize = common.synchroniser(device)

    def time_in_place(self, variant, size, points, dtype, device):
        self.P.project_(self.x)
        self.synchronize()


class Distinct:
    """B systems, a vector each."""

    params = (
        common.VARIANTS,
        ("1x10", "3x10", "10x100"),
        (32, 1024),
        parameters.DTYPES,
        parameters.DEVICES,
    )
    param_names = ("variant", "size", "batch", "dtype", "device")

    def setup(self, variant, size, batch, dtype, device):
        self.case = common.system(size, dtype, device, batch=batch)
        self.P = common.projector(self.case, variant)
        self.x = self.case.x0.clone()
        self.synchronize = common.synchroniser(device)

    def time_in_place(self, variant, size, batch, dtype, device):
        self.P.project_(self.x)
        self.synchronize()
