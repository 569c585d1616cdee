"""One projection: how long, how much memory, how exact."""

from dataclasses import replace

import torch

from benchmarks import common, parameters


class Projection:
    """A vector, with factors kept."""

    params = (common.VARIANTS, parameters.SIZES, parameters.DTYPES, parameters.DEVICES)
    param_names = ("variant", "size", "dtype", "device")

    def setup(self, variant, size, dtype, device):
        self.case = common.system(size, dtype, device)
        self.P = common.projector(self.case, variant)
        self.x = self.case.x0.clone()
        self.synchronize = common.synchroniser(device)

    def time_in_place(self, variant, size, dtype, device):
        self.P.project_(self.x)
        self.synchronize()

    def time_call(self, variant, size, dtype, device):
        self.P(self.x)
        self.synchronize()

    def time_tangent(self, variant, size, dtype, device):
        self.P.tangent(self.case.g)
        self.synchronize()


class Quality:
    """Single-shot forward error and feasibility against an answer known exactly, in units of u.

    Iterating a projection corrects its own faults, so that drift alone would hide them.
    """

    params = (
        common.VARIANTS,
        parameters.SIZES,
        parameters.DTYPES,
        parameters.DEVICES,
        ("well", "ill"),
    )
    param_names = ("variant", "size", "dtype", "device", "conditioned")
    unit = "u"

    def setup(self, variant, size, dtype, device, conditioned):
        if conditioned == "ill" and common.shape_of(size)[0] == 1:
            raise NotImplementedError("one row has condition one")
        self.case = common.system(size, dtype, device, ill=conditioned == "ill")
        self.x = common.projector(self.case, variant)(self.case.x0)

    def track_forward_error(self, variant, size, dtype, device, conditioned):
        return common.in_roundoffs(common.forward_error(self.x, self.case), dtype)

    def track_feasibility(self, variant, size, dtype, device, conditioned):
        return common.in_roundoffs(common.feasibility(self.x, self.case), dtype)


class Drift:
    """After 1e4 perturbed projections: the distance to the exact trajectory, and feasibility."""

    params = (common.VARIANTS, ("1x10", "3x10", "10x100"), parameters.DTYPES, parameters.DEVICES)
    param_names = ("variant", "size", "dtype", "device")
    unit = "u"
    steps = 10_000
    moves = 1000
    size_of_move = 2.0**-10

    def setup(self, variant, size, dtype, device):
        # Each move is a null vector, which stays, and a combination of rows, which is taken back.
        # They differ, or x would meet the same roundings over and over, and they would add up.
        moves = common.system(size, dtype, device, points=self.moves)
        P = common.projector(moves, variant)
        draw = torch.Generator().manual_seed(1)
        signs = torch.randint(0, 2, (self.steps,), generator=draw).mul_(2).sub_(1)
        x = moves.x0[0].clone()
        steps = (self.size_of_move * moves.g).unbind()
        for i, sign in enumerate(signs.tolist()):
            P.project_(x.add_(steps[i % self.moves], alpha=sign))
        times = signs.view(-1, self.moves).sum(0).double().to(device)
        self.travelled = self.size_of_move * (times @ moves.z.double())
        self.x, self.wanted = x.double(), moves.x[0].double() + self.travelled
        self.case = replace(moves, x0=moves.x0[0], x=moves.x[0])

    def track_drift(self, variant, size, dtype, device):
        return common.in_roundoffs(common.relative(self.x, self.wanted), dtype)

    def track_drift_feasibility(self, variant, size, dtype, device):
        return common.in_roundoffs(common.feasibility(self.x - self.travelled, self.case), dtype)
