"""Rows of the table of targets, as `projlab bench --targets` measures them."""

from benchmarks import targets


def cell(value, label="10x100 float64"):
    return {"label": label, "value": value}


def a_row(**changed):
    return {
        "id": "call",
        "regime": "n ≤ 128",
        "target": "≤ 3 µs",
        "figure": "µs",
        "worst": 2.0,
        "worst_at": "10x100 float64",
        "met": True,
        "cells_met": 1,
        "cells": [cell(2.0)],
        "missing": None,
        "wrong": None,
        "command": "projlab bench --targets call",
        **changed,
    }


def found(*rows):
    environment = {
        "cpu": "some",
        "cores": 2,
        "caches": "L2 1 MiB",
        "system": "Linux",
        "threads": 1,
        "load_before": 0.1,
        "python": "3.11",
        **dict.fromkeys(targets.PACKAGES, "1.0"),
        "kernels": ["torch"],
        "commit": "abc",
        "date": "2026-01-01",
    }
    return {"environment": environment, "rows": list(rows)}
