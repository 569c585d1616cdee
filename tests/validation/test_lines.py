"""One line a variant: who judged it, and from how many projections it pays."""

import math
from dataclasses import replace

from projlab_validation.lines import lines
from tests.validation.compared import RECORD


def test_where_no_oracle_knows_the_certificate_judges():
    (certified,) = lines([RECORD], {})
    assert (certified.verdict, certified.judged_by, certified.nearness) == (
        "pass",
        "certificate",
        3e-16,
    )
    open_, failed = lines(
        [
            replace(RECORD, proof="uncertifiable", proven_at_most=math.inf),
            replace(RECORD, proof="failed", proven_at_least=1e-3, proven_at_most=2e-3),
        ],
        {},
    )
    assert (open_.verdict, open_.judged_by) == ("expected", "nothing")
    assert math.isnan(open_.nearness)
    assert failed.verdict == "fail"


def test_break_even_is_where_the_totals_meet():
    records = [
        replace(RECORD, variant="cholesky", computed_by="cholesky", project_s_min=2e-5),
        replace(RECORD, setup_s_min=2e-3, project_s_min=1e-5),
        replace(RECORD, variant="pinv", computed_by="pinv", setup_s_min=5e-3, project_s_min=3e-5),
    ]
    cholesky, qr, pinv = lines(records, {})
    assert (cholesky.pays_from, qr.pays_from, pinv.pays_from) == (1, 100, None)
