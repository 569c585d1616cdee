"""Every optimizer of `torch.optim`, with a learning rate that suits losses of curvature one.

The rate is held for half of the steps and falls geometrically to `LAST` of itself over the rest.
SparseAdam is not here: `projlab.constrain` refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

LAST = 1e-4
"""The last learning rate, relative to the first."""


@dataclass(frozen=True)
class Choice:
    """An optimizer and how it moves.

    Attributes
    ----------
    name
        Its class in `torch.optim`, or that and what sets it apart.
    cls, keywords
        How it is made.
    rate
        The first learning rate.
    moves
        "gradient": by the learning rate times an average of gradients; "sign": each entry by about
        the learning rate, whatever the gradient's size; "search": by a step of its own.
    memory
        Steps over which gradients are averaged.
    decays
        Whether it takes coupled weight decay.
    own_decay
        Coupled weight decay that it adds unasked.
    floor
        Of "search": the size of the last step, below which it stops or does not go.
    closure
        Whether it evaluates the loss by itself.
    matrices
        Whether it takes nothing but matrices.
    """

    name: str
    cls: type[Optimizer]
    keywords: dict[str, Any]
    rate: float
    moves: Literal["gradient", "sign", "search"]
    memory: float = 1.0
    decays: bool = True
    own_decay: float = 0.0
    floor: float = 0.0
    closure: bool = False
    matrices: bool = False

    def make(self, parameters: Sequence[Tensor], weight_decay: float) -> Optimizer:
        """Return it over these parameters."""
        keywords = {"lr": self.rate, **self.keywords}
        if self.decays:
            keywords["weight_decay"] = weight_decay
        make: Any = self.cls  # each class has keywords of its own
        made: Optimizer = make(parameters, **keywords)
        return made

    def factor(self, step: int, steps: int) -> float:
        """Return the learning rate at a step, relative to the first."""
        if self.moves == "search":
            return 1.0
        return float(LAST ** max(0.0, 2 * step / steps - 1))


O = torch.optim  # noqa: E741
OPTIMIZERS = (
    Choice("SGD", O.SGD, {}, 0.5, "gradient"),
    Choice("SGD momentum", O.SGD, {"momentum": 0.9}, 0.1, "gradient", memory=10),
    Choice("SGD Nesterov", O.SGD, {"momentum": 0.9, "nesterov": True}, 0.1, "gradient", memory=10),
    Choice("Adam", O.Adam, {}, 0.05, "sign", memory=10),
    Choice("Adam amsgrad", O.Adam, {"amsgrad": True}, 0.05, "sign", memory=10),
    Choice("AdamW", O.AdamW, {"weight_decay": 0.0}, 0.05, "sign", memory=10, decays=False),
    Choice("NAdam", O.NAdam, {}, 0.05, "sign", memory=10),
    Choice("RAdam", O.RAdam, {}, 0.05, "sign", memory=10),
    Choice("Adamax", O.Adamax, {}, 0.05, "sign", memory=10),
    Choice("RMSprop", O.RMSprop, {}, 0.02, "sign"),
    Choice("Adagrad", O.Adagrad, {}, 0.5, "sign"),
    Choice("Adadelta", O.Adadelta, {}, 10.0, "sign"),
    Choice("Adafactor", O.Adafactor, {"weight_decay": 0.0}, 0.05, "sign", decays=False),
    # its own decay of 1e-4 is coupled, and so part of the objective
    Choice("ASGD", O.ASGD, {"lambd": 1e-4}, 0.5, "gradient", own_decay=1e-4),
    Choice("Rprop", O.Rprop, {"step_sizes": (1e-6, 50)}, 0.01, "search", decays=False, floor=1e-6),
    Choice(
        "LBFGS",
        O.LBFGS,
        {"tolerance_grad": 1e-10, "tolerance_change": 1e-14},
        1.0,
        "search",
        decays=False,
        floor=1e-7,  # the square root of the change in the loss at which it stops
        closure=True,
    ),
    Choice(
        "Muon", O.Muon, {"weight_decay": 0.0}, 0.02, "sign", memory=20, decays=False, matrices=True
    ),
)
"""In the order of the report."""
