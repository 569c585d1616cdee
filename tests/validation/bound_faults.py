"""Planted faults of projections onto polyhedra, and one that is sound; for `--subject`.

All are `project(x, A, b, G, h, lb, ub)`. A fault is right wherever the mistake does not show.
"""

import torch

import projlab

INF = float("inf")


def sound(x, A, b, G, h, lb, ub):
    return projlab.project(x, A, b, G=G, h=h, lb=lb, ub=ub)


def one_sum(A, G):
    return A is not None and len(A) == 1 and G is None and bool((A == 1).all())


def clamp_then_rescale(x, A, b, G, h, lb, ub):
    """The recipe of many threads: positive parts, divided by their sum."""
    if not one_sum(A, G) or ub is not None or bool((lb != 0).any()):
        return sound(x, A, b, G, h, lb, ub)
    positive = x.clamp_min(0)
    return positive / positive.sum() * b if positive.sum() > 0 else torch.full_like(x, 1 / len(x))


def softmax(x, A, b, G, h, lb, ub):
    """A point of the simplex, and not the nearest one."""
    if not one_sum(A, G) or ub is not None or bool((lb != 0).any()):
        return sound(x, A, b, G, h, lb, ub)
    return b * torch.softmax(x, -1)


def ties(x, A, b, G, h, lb, ub):
    """The sorted search, which leaves out of the sum all but one of equal entries."""
    if not one_sum(A, G) or ub is not None or bool((lb != 0).any()):
        return sound(x, A, b, G, h, lb, ub)
    entries = torch.unique(x).flip(0)
    sums = entries.cumsum(0) - b
    count = torch.arange(1, len(entries) + 1)
    support = int((entries - sums / count > 0).sum())
    t = sums[support - 1] / support
    x = (x - t).clamp_min(0)
    return x / x.sum() * b


def dykstra_stopped_early(x, A, b, G, h, lb, ub):
    """Dykstra's alternating projections for ten rounds, and the equations last."""
    if A is None:
        return sound(x, A, b, G, h, lb, ub)
    low = -INF if lb is None else lb
    high = INF if ub is None else ub
    rows = [] if G is None else list(zip(G, h, strict=True))
    pieces = [torch.zeros_like(x) for _ in range(1 + len(rows))]
    for _ in range(10):
        for k in range(len(pieces)):
            v = x + pieces[k]
            if k == 0:
                x = torch.clamp(v, torch.as_tensor(low), torch.as_tensor(high))
            else:
                g, side = rows[k - 1]
                x = v - (g @ v - side).clamp_min(0) / (g @ g) * g
            pieces[k] = v - x
        x = projlab.project(x, A, b)
    return x


def wrong_multiplier_sign(x, A, b, G, h, lb, ub):
    """Every inequality that the point violates becomes an equation and stays one."""
    if G is None:
        return sound(x, A, b, G, h, lb, ub)
    over = G @ x > h
    rows = [t for t in (A, G[over]) if t is not None and len(t)]
    right = [t for t in (b, h[over]) if t is not None and len(t)]
    try:
        M = torch.cat(rows) if rows else None
        return projlab.project(x, M, torch.cat(right) if rows else None, G=G, h=h, lb=lb, ub=ub)
    except projlab.InconsistentError:
        return sound(x, A, b, G, h, lb, ub)


def one_bound_ignored(x, A, b, G, h, lb, ub):
    """The last variable's lower bound."""
    if lb is None or len(x) < 2:
        return sound(x, A, b, G, h, lb, ub)
    lb = lb.clone()
    lb[-1] = -INF
    return sound(x, A, b, G, h, lb, ub)
