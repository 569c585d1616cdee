"""Peers of all kinds, named as subjects are; and work for a process of its own."""

import os
import time

import torch


def right(x, A, b):
    return x - (x @ A.mT - b) @ torch.linalg.pinv(A).mT


def wrong(x, A, b):
    return right(x, A, b) + 1e-3


def stacks_badly(x, A, b):
    return right(x, A, b)[:1] if x.dim() == 2 else right(x, A, b).unsqueeze(0)


def raises(x, A, b):
    raise ArithmeticError("no idea")


def dies(x, A, b):
    os._exit(9)


def sleeps(x, A, b):
    time.sleep(60)


def reports_and_sleeps(report):
    report(1)
    report(2)
    time.sleep(60)


def reports_and_dies(report):
    report(1)
    os._exit(9)


def reports_and_raises(report):
    report(1)
    raise ArithmeticError("no idea")
