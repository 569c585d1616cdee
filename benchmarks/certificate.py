"""What a proof costs, and how sharp it is."""

import projlab
from benchmarks import common, parameters


class Certificate:
    """`certify(x0, x, A, b)` of a projection."""

    params = (("1x10", "3x10", "10x100", "100x1000"), parameters.DTYPES, parameters.DEVICES)
    param_names = ("size", "dtype", "device")

    def setup(self, size, dtype, device):
        self.case = common.system(size, dtype, device)
        self.x = common.projector(self.case, "auto")(self.case.x0)
        self.proof = self._run()
        error = common.forward_error(self.x, self.case)
        if self.proof.verdict != "certified" or not error <= self.proof.forward_error_bound:
            raise AssertionError(f"{self.proof.verdict}: {self.proof.reason}")
        self.synchronize = common.synchroniser(device)

    def _run(self):
        return projlab.certify(self.case.x0, self.x, self.case.A, self.case.b)

    def time_certify(self, size, dtype, device):
        self._run()
        self.synchronize()

    def track_bound(self, size, dtype, device):
        return common.in_roundoffs(self.proof.forward_error_bound, dtype)

    track_bound.unit = "u"  # type: ignore[attr-defined]  # asv reads it from the function
