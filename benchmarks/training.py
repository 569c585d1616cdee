"""A training step with and without equations: an MLP, fused Adam, float32."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

import projlab
from benchmarks import common, parameters

WIDTHS = {"1e5": (784, 128, 10), "1e7": (784, 2048, 2048, 2048, 10)}
EXAMPLES = 64
"""In a mini-batch: the fewer, the larger the share of what a step costs whatever their number."""

ROWS = 10
ADAM = partial(torch.optim.Adam, lr=1e-4, fused=True)
EQUATIONS = ("column sums", "total", "ten rows")


@dataclass
class Training:
    """A network, its optimizer and one mini-batch; `constrain` attaches equations."""

    parameters: str
    device: str = "cpu"
    examples: int = EXAMPLES
    optimizer_of: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = ADAM
    handle: object = None
    checks: list[Callable[[], float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        widths = WIDTHS[self.parameters]
        layers: list[nn.Module] = []
        for i, (n, m) in enumerate(pairwise(widths)):
            layer = nn.Linear(n, m)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(m, n, generator=draw) / n**0.5)
                layer.bias.zero_()
            layers += [layer, nn.ReLU()] if i < len(widths) - 2 else [layer]
        self.model = nn.Sequential(*layers).to(self.device)
        self.weights = [p for p in self.model.parameters() if p.dim() == 2]
        self.optimizer = self.optimizer_of(self.model.parameters())
        self.inputs = torch.randn(self.examples, widths[0], generator=draw).to(self.device)
        classes = torch.randint(widths[-1], (self.examples,), generator=draw)
        self.classes = classes.to(self.device)
        self.loss = nn.CrossEntropyLoss()

    def step(self) -> None:
        """Gradients, and a step."""
        self.optimizer.zero_grad()
        self.loss(self.model(self.inputs), self.classes).backward()
        self.optimizer.step()

    def constrain(self, equations: str) -> None:
        """Attach one of `EQUATIONS`; a step that breaks them is an error."""
        if not hasattr(projlab, "constrain"):
            raise NotImplementedError("this projlab has no `constrain`")
        attach = (self._column_sums, self._total, self._ten_rows)
        attach[EQUATIONS.index(equations)]()
        self.step()
        self.require_feasible()

    def apply_from_infeasible(self) -> None:
        """`handle.apply()`, which leaves feasible parameters alone, after moving a few entries."""
        for W in self.weights:
            W.detach()[0, :4].add_(0.01)
        self.handle.apply()  # type: ignore[attr-defined]  # untyped where there is none

    def require_feasible(self) -> None:
        """Rows hold to 8 u (sum |a_i x_i| + |b|)."""
        for excess in self.checks:
            if not excess() <= 8:
                raise AssertionError(f"an equation is off by {excess():.2g} u of its terms")

    def _column_sums(self) -> None:
        equations = [projlab.expr(W).sum(dim=0) == 0 for W in self.weights]
        self.handle = projlab.constrain(self.optimizer, *equations)
        self.checks += [partial(_excess, W.T, None, 0.0) for W in self.weights]

    def _total(self) -> None:
        first, *rest = (projlab.expr(W).sum() for W in self.weights)
        total = sum(rest, start=first)
        self.handle = projlab.constrain(self.optimizer, total == 1)
        self.checks.append(lambda: _excess(self._flat().unsqueeze(0), None, 1.0))

    @staticmethod
    def ten_rows(n: int) -> Tensor:
        """A dense A (10, n)."""
        return torch.randn(ROWS, n, generator=torch.Generator().manual_seed(1))

    def _ten_rows(self) -> None:
        A = self.ten_rows(sum(W.numel() for W in self.weights)).to(self.device)
        weights = projlab.cat(*(projlab.expr(W) for W in self.weights))
        self.handle = projlab.constrain(self.optimizer, A @ weights == 0)
        self.checks.append(lambda: _excess(self._flat().unsqueeze(0), A, 0.0))

    def _flat(self) -> Tensor:
        return torch.cat([W.detach().flatten() for W in self.weights])


LAYERS, WIDTH, HEADS, WORDS = 4, 448, 8, 1000
TOKENS = (8, 128)


class Transformer:
    """One of 1e7 parameters, and Adam; `constrained`: its layers' columns sum to zero."""

    def __init__(self, *, constrained: bool) -> None:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.model = nn.Sequential(
            nn.Embedding(WORDS, WIDTH),
            nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False),
            nn.Linear(WIDTH, WORDS),
        )
        self.tokens = torch.randint(WORDS, TOKENS)
        self.optimizer = ADAM(self.model.parameters())
        self.weights = [p for p in self.model[1].parameters() if p.dim() == 2]
        if constrained:
            projlab.constrain(self.optimizer, *(projlab.expr(W).sum(0) == 0 for W in self.weights))
        self.step()
        if constrained and any(_excess(W.T, None, 0.0) > 8 for W in self.weights):
            raise AssertionError("columns do not sum to zero after a step")

    def step(self) -> None:
        """Gradients of each token's own, and a step."""
        self.optimizer.zero_grad()
        scores = self.model(self.tokens).flatten(0, 1)
        nn.functional.cross_entropy(scores, self.tokens.flatten()).backward()
        self.optimizer.step()


def _excess(x: Tensor, A: Tensor | None, b: float) -> float:
    """Largest |row - b| over u (sum |a_i x_i| + |b|), for sums of the rows of x or for A x."""
    terms = x.detach().double() if A is None else A.double() * x.detach().double()
    u = torch.finfo(x.dtype).eps / 2
    off = (terms.sum(-1) - b).abs()
    return float((off / (u * (terms.abs().sum(-1) + abs(b)))).max())


class Step:
    """Gradients and a step; "none" is the same step without equations."""

    params = (tuple(WIDTHS), ("none", *EQUATIONS), parameters.DEVICES)
    param_names = ("parameters", "equations", "device")

    def setup(self, parameters, equations, device):
        if device == "cuda" and not torch.cuda.is_available():
            raise NotImplementedError("no CUDA device")
        self.training = Training(parameters, device)
        if equations != "none":
            self.training.constrain(equations)
        self.training.step()
        self.synchronize = common.synchroniser(device)

    def time_step(self, parameters, equations, device):
        self.training.step()
        self.synchronize()
