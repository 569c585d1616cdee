"""What `projlab compare --json` prints, in every case that its page has to show."""

QR = {
    "name": "qr",
    "kind": "variant",
    "check": "projection",
    "status": "ok",
    "verdict": "pass",
    "why": "forward error 2.1e-16, bound 8.7e-15",
    "reason": "",
    "forward_error": 2.1e-16,
    "at_most": None,
    "judged_by": "exact",
    "bound": 8.7e-15,
    "stable_bound": 8.7e-15,
    "feasibility": 1.5e-17,
    "stationarity": 2.5e-17,
    "setup_s": 2.5e-4,
    "project_s": 1.7e-5,
    "stack": 64,
    "stacked_s": 3.3e-7,
    "held_bytes": 2752,
    "pays_from": 12,
}


PROVEN = QR | {
    "name": "pinv",
    "judged_by": "certificate",
    "forward_error": None,
    "at_most": 4.4e-13,
    "pays_from": None,
}


SKIPPED = QR | {"name": "single_row", "status": "refused", "verdict": "skip", "why": "rows overlap"}
FAILED = QR | {"name": "cholesky", "verdict": "fail", "why": "forward error 0.5, bound 1e-14"}
PEER = QR | {"name": "cvxpy", "kind": "peer", "setup_s": 0.0, "project_s": 3e-3, "held_bytes": None}
KNOWN = {
    "m": 27,
    "n": 32,
    "nnz": 83,
    "density": 0.096,
    "structure": ["sparse", "4 blocks that share no variable"],
    "rows_overlap": True,
    "row_norms": [1.0, 3.0],
    "rank": 25,
    "ambiguous": False,
    "gap": [0.1, 1e-17],
    "cutoff": 7e-15,
    "condition": 12.5,
    "condition_as_given": 99.0,
    "condition_is_least": False,
    "redundant": ["total = in + out", "sum = in"],
    "redundant_count": 2,
    "conflicting": [],
    "conflicting_count": 0,
    "off": None,
    "analysis_s": 3e-3,
    "clear_cutoff": None,
    "unknown": "",
}


ADVICE = {
    "text": "Use qr: forward error 2.1e-16.",
    "code": 'P = projector(A, b, variant="qr")',
    "changes": ["At float32 a forward error of 1e-5 is promised."],
    "variant": "qr",
}


SYSTEM = {
    "file": "data/afiro.npz",
    "dtype": "float64",
    "note": "",
    "x0": "x0 as given",
    "system": KNOWN,
    "check": "projection",
    "lines": [QR, PROVEN, SKIPPED, PEER],
    "recommendation": ADVICE,
    "seconds": 1.0,
}


CONFLICT = "total = in + out on the left, but its b is 3 and the combination's is 2"
INCONSISTENT = SYSTEM | {
    "file": "conflict.npz",
    "check": "least_squares",
    "system": KNOWN | {"conflicting": [CONFLICT], "conflicting_count": 1, "off": 1.0},
    "recommendation": ADVICE
    | {"code": 'P = projector(A, b, variant="qr", on_inconsistent="least_squares")'},
}


UNKNOWN = SYSTEM | {
    "file": "large.npz",
    "lines": [SKIPPED | {"why": "predicted to take 900 s"}],
    "system": KNOWN | {"rank": None, "condition": None, "unknown": "predicted to take 900 s"},
    "recommendation": ADVICE | {"text": "No variant was run.", "variant": None},
}


SCRIPT = "<script>alert(1)</script>"


def payload(*systems, exit_code=0, accuracy=1e-10):
    return {
        "format": 1,
        "kind": "comparison",
        "exit_code": exit_code,
        "asked": {"accuracy": accuracy, "peers": [], "device": "cpu"},
        "environment": {"cpu": "A & B", "torch": "2.13.0"},
        "systems": list(systems),
    }


EVERYTHING = payload(SYSTEM, INCONSISTENT, UNKNOWN, SYSTEM | {"lines": [FAILED, QR]}, exit_code=1)
