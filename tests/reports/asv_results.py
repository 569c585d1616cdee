"""Result files as asv writes them."""

import json
import math

from projlab_reports import asv, speed

COLUMNS = [
    "result",
    "params",
    "version",
    "started_at",
    "duration",
    "stats_ci_99_a",
    "stats_ci_99_b",
    "stats_q_25",
    "stats_q_75",
]


MACHINE = {"machine": "here", "cpu": "some", "num_cpu": "2", "arch": "x86_64"}


def row(value, *, spread=0.0, version="v", params=()):
    """A benchmark as asv writes it: one value, or one for each of its parameters."""
    values = value if params else [value]
    numbers = [v if isinstance(v, float) and v == v else None for v in values]
    low = [None if v is None else v * (1 - spread) for v in numbers]
    high = [None if v is None else v * (1 + spread) for v in numbers]
    return [values, [list(p) for p in params], version, 0, 1.0, low, high, low, high]


def result(path, benchmarks, *, threads=1.0, yardstick=1e-6, machine=MACHINE, **others):
    """Write a result file; others replace its keys."""
    results = {asv.THREADS: row(threads), "yardstick.Machine.time_addmv": row(yardstick)}
    content = {
        "version": 2,
        "commit_hash": "c" * 40,
        "params": machine,
        "result_columns": COLUMNS,
        "results": {**results, **benchmarks},
        **others,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


NAN = math.nan
SIZES = ("'1x10'", "'10x100'", "'100x1000'")
TIMES = (("'auto'", "'qr'"), SIZES, ("'float64'", "'float32'"), ("'cpu'", "'cuda'"))
PEERS = (("'numpy'", "'jaxopt'"), ("'10x100'",), ("'one'", "'shared'"), ("'float64'",), ("'cpu'",))
FORWARD = "projection.Quality.track_forward_error"


def times(scale=1.0):
    """A projection's time, exactly linear in m·n; float32 failed on the largest, no cuda."""
    values = []
    for _ in TIMES[0]:
        for entries in (10.0, 1e3, 1e5):
            values += [scale * entries * 1e-9, NAN]
            values += [None if entries > 1e4 else scale * entries * 1e-9, NAN]
    return row(values, params=TIMES)


def suite(scale=1.0):
    return {
        speed.PROJECTION: times(scale),
        speed.PEERS: row([0.5, 2.0, 0.01, NAN], params=PEERS),
        FORWARD: row([1.0, 3.0, 30.0], params=(SIZES,)),
        "yardstick.Machine.time_read": row(1e-3),
    }
