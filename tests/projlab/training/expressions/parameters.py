"""Parameters and matrices that the tests of expressions share."""

import scipy.sparse
import torch

F64 = torch.float64
W = torch.nn.Parameter(torch.linspace(-2, 3, 20, dtype=F64).reshape(4, 5))
p = torch.nn.Parameter(torch.linspace(0.5, 2, 5, dtype=F64))
q = torch.nn.Parameter(torch.tensor([0.7], dtype=F64))
s = torch.nn.Parameter(torch.tensor(1.3, dtype=F64))
A = torch.linspace(-1, 1, 15, dtype=F64).reshape(3, 5)
SPARSE = scipy.sparse.coo_array(([1.0, 2.0, 3.0], ([0, 2, 2], [1, 0, 4])), shape=(3, 5))
MASK = W.detach() > 0


def value(e):
    total = torch.zeros(e.shape, dtype=F64)
    for term in e.terms:
        total = total + term.evaluate(term.parameter.detach(), F64).reshape(e.shape)
    return total if e.constant is None else total + e.constant
