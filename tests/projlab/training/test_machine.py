"""Any order of constrain, step, freeze, thaw, remove, save, resume, replace and move.

A machine of hypothesis draws the order. After each rule every equation that holds anything that
is trained holds to rounding; under plain SGD each step ends where dense linear algebra, written
here from the definitions, says. PROJLAB_MACHINE=1000 draws a thousand orders; the default takes
seconds.
"""

import copy
import os

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from projlab import InconsistentError, ProjlabError, constrain, expr

F64 = torch.float64
U = 2.0**-53
SHAPES = {"W": (4, 3), "v": (5,), "u": ()}
MIX = torch.tensor([[1.0, 2.0, 0.0, -1.0, 1.0], [0.0, 1.0, 1.0, 3.0, -2.0]], dtype=F64)

POOL = {
    "rows": (("W",), lambda W: W.sum(1), 1.0),
    "columns": (("W",), lambda W: W.sum(0), 4.0 / 3.0),
    "a row again": (("W",), lambda W: 2 * W[0].sum(), 2.0),
    "mixed": (("v",), lambda v: MIX @ v, 0.5),
    "tied": (("v",), lambda v: v[3] - v[4], 0.25),
    "linked": (("W", "u"), lambda W, u: W.sum() - u, 0.0),
    "across": (("v", "u"), lambda v, u: v[:2].sum() + 2 * u, 3.0),
}
"""Parameters, left side and right side; all of them together have solutions."""

LR = 0.1
TOLERANCE = 256 * U
"""Relative to 1 + max |x|: rows of at most twelve entries of size one to three, and kappa below
twenty of all of them together."""


class Training(RuleBasedStateMachine):
    """A training loop in which anything may happen between two steps."""

    @initialize(
        seed=st.integers(0, 2**16),
        kind=st.sampled_from(["SGD", "momentum", "Adam"]),
        two=st.booleans(),
    )
    def begin(self, seed, kind, two):
        self.random = torch.Generator().manual_seed(seed)
        self.kind, self.two = kind, two
        self.p = {name: torch.nn.Parameter(self.drawn(s)) for name, s in SHAPES.items()}
        self.optimizer = self.made()
        self.handles = {}
        self.saved = None

    # ---- helpers

    def drawn(self, shape):
        return torch.randn(shape, dtype=F64, generator=self.random)

    def made(self):
        groups = [{"params": list(self.p.values())}]
        if self.two:
            groups = [{"params": [self.p["W"]]}, {"params": [self.p["v"], self.p["u"]]}]
        if self.kind == "Adam":
            return torch.optim.Adam(groups, lr=0.01)
        return torch.optim.SGD(groups, lr=LR, momentum=0.9 if self.kind == "momentum" else 0.0)

    def equation(self, name):
        parameters, left, right = POOL[name]
        return left(*(expr(self.p[q]) for q in parameters)) == right

    def residual(self, name, values):
        parameters, left, right = POOL[name]
        return (left(*(values[q] for q in parameters)) - right).reshape(-1)

    def values(self):
        return {name: p.detach().clone() for name, p in self.p.items()}

    def system(self, names, moving):
        """A and A x - b of these equations over these parameters, the others being constants."""
        values = self.values()
        sizes = [values[q].numel() for q in moving]

        def residuals(flat):
            own = dict(values)
            for q, part in zip(moving, flat.split(sizes), strict=True):
                own[q] = part.view(SHAPES[q])
            return torch.cat([self.residual(name, own) for name in names])

        x = torch.cat([values[q].reshape(-1) for q in moving])
        return torch.autograd.functional.jacobian(residuals, x), residuals(x), x, sizes

    def hold(self, names):
        values = self.values()
        size = 1 + max(float(t.abs().max()) for t in values.values())
        for name in names:
            off = float(self.residual(name, values).abs().max())
            assert off <= TOLERANCE * size, (name, off)

    def trained(self):
        return [name for name, p in self.p.items() if p.requires_grad]

    # ---- rules

    @rule(name=st.sampled_from(sorted(POOL)))
    def constrain(self, name):
        if name in self.handles:
            return
        before, trained = self.values(), self.trained()
        others = list(self.handles)
        moving = [q for q in POOL[name][0] if q in trained]
        if moving:
            A, r, _, _ = self.system([*others, name], trained)
            left = r - A @ (torch.linalg.pinv(A, rtol=1e-10) @ r)
            possible = float(left.abs().max()) < 1e-9
        if moving and possible:
            self.handles[name] = constrain(self.optimizer, self.equation(name))
            self.hold(self.handles)
        else:
            with pytest.raises(ProjlabError) as refused:
                constrain(self.optimizer, self.equation(name))
            assert not moving or isinstance(refused.value, InconsistentError)
            assert all(torch.equal(t, before[q]) for q, t in self.values().items())

    @rule(asleep=st.sets(st.sampled_from(sorted(SHAPES))), steps=st.integers(1, 3))
    def step(self, asleep, steps):
        for _ in range(steps):
            awake = [q for q in self.trained() if q not in asleep]
            for q, p in self.p.items():
                p.grad = self.drawn(SHAPES[q]) if q in awake else None
            wanted = self.after_sgd(awake) if self.kind == "SGD" else None
            resting = {q: t for q, t in self.values().items() if q not in awake}
            self.optimizer.step()
            assert all(torch.equal(self.p[q].detach(), t) for q, t in resting.items())
            if wanted is not None:
                size = 1 + max((float(t.abs().max()) for t in wanted.values()), default=0.0)
                for q, t in wanted.items():
                    assert float((self.p[q].detach() - t).abs().max()) <= TOLERANCE * size

    def after_sgd(self, awake):
        """x - lr T g: x is feasible, and T projects onto the null space of what moves."""
        names = [n for n in self.handles if any(q in awake for q in POOL[n][0])]
        if not awake:
            return {}
        g = torch.cat([self.p[q].grad.reshape(-1) for q in awake])
        x = torch.cat([self.p[q].detach().reshape(-1) for q in awake])
        sizes = [self.p[q].numel() for q in awake]
        if names:
            A, *_ = self.system(names, awake)
            g = g - torch.linalg.pinv(A, rtol=1e-10) @ (A @ g)
        parts = (x - LR * g).split(sizes)
        return {q: t.view(SHAPES[q]) for q, t in zip(awake, parts, strict=True)}

    @rule(name=st.sampled_from(sorted(SHAPES)))
    def freeze(self, name):
        self.p[name].requires_grad_(False)

    @rule(name=st.sampled_from(sorted(SHAPES)))
    def thaw(self, name):
        self.p[name].requires_grad_(True)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def remove(self, data):
        name = data.draw(st.sampled_from(sorted(self.handles)))
        handle = self.handles.pop(name)
        before = self.values()
        handle.remove()
        assert all(torch.equal(t, before[q]) for q, t in self.values().items())
        with pytest.raises(ProjlabError, match="removed"):
            handle.apply()

    @rule()
    def save(self):
        self.saved = (self.values(), copy.deepcopy(self.optimizer.state_dict()))

    @precondition(lambda self: self.saved is not None)
    @rule(afresh=st.booleans())
    def resume(self, afresh):
        """Weights and the optimizer's state come back, here or in what stands for a new process."""
        values, state = self.saved
        for name, p in self.p.items():
            p.requires_grad_(True)
            p.data.copy_(values[name])
        if afresh:
            names = list(self.handles)
            self.p = {q: torch.nn.Parameter(p.detach().clone()) for q, p in self.p.items()}
            self.optimizer = self.made()
            self.handles = {n: constrain(self.optimizer, self.equation(n)) for n in names}
        self.optimizer.load_state_dict(copy.deepcopy(state))
        self.moved_onto(values)

    @precondition(lambda self: self.handles)
    @rule()
    def move(self):
        """Something else writes to the parameters."""
        for p in self.p.values():
            p.requires_grad_(True)
            p.data.add_(self.drawn(p.shape))
        self.moved_onto(self.values())

    def moved_onto(self, values):
        """`apply` is the projection of all parameters; what holds keeps its bits."""
        if not self.handles:
            return
        names, moving = list(self.handles), list(SHAPES)
        for q, p in self.p.items():
            p.data.copy_(values[q])
        A, r, x, _ = self.system(names, moving)
        wanted = x - torch.linalg.pinv(A, rtol=1e-10) @ r
        self.handles[names[0]].apply()
        found = torch.cat([self.p[q].detach().reshape(-1) for q in moving])
        size = 1 + float(x.abs().max())
        assert float((found - wanted).abs().max()) <= TOLERANCE * size
        again = self.values()
        self.handles[names[-1]].apply()
        assert all(torch.equal(t, again[q]) for q, t in self.values().items())

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def replace(self, data):
        """A new parameter in the old one's place is found at the next step, and nothing moves."""
        name = data.draw(st.sampled_from(sorted(self.handles)))
        q = data.draw(st.sampled_from(POOL[name][0]))
        old, new = self.p[q], torch.nn.Parameter(self.p[q].detach().clone())
        for group in self.optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        self.optimizer.state.pop(old, None)
        self.p[q] = new
        for p in self.p.values():
            p.requires_grad_(True)
            p.grad = self.drawn(p.shape)
        before = self.values()
        with pytest.raises(ProjlabError, match="no longer holds"):
            self.optimizer.step()
        assert all(torch.equal(t, before[k]) for k, t in self.values().items())
        names = list(self.handles)
        for handle in self.handles.values():
            handle.remove()
        self.handles = {n: constrain(self.optimizer, self.equation(n)) for n in names}
        self.moved_onto(before)

    @invariant()
    def all_equations_hold(self):
        if hasattr(self, "handles"):
            self.hold(self.handles)


Training.TestCase.settings = settings(
    max_examples=int(os.environ.get("PROJLAB_MACHINE", "40")), stateful_step_count=25
)
TestTraining = Training.TestCase
