"""A record as one flat, typed row."""

import math
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from projlab_validation.record import COLUMNS, OracleFigures, Record, schema, table
from tests.validation.records import ANSWERED

MEASURED = replace(
    ANSWERED,
    forward_error=1e-16,
    oracles={"lstsq_gelsd": OracleFigures("ok", 2e-16, 1e-4, 3e-16)},
)
SKIPPED = Record(
    **{f.name: getattr(MEASURED, f.name) for f in fields(Record)[:14]}, status="skip", reason="big"
)


def test_a_record_is_one_flat_row_without_a_verdict():
    row = MEASURED.row()
    assert not any(isinstance(value, (dict, list, tuple)) for value in row.values())
    assert row["difference_lstsq_gelsd"] == 3e-16
    assert not any("verdict" in column or "bound" in column for column in row)


def test_missing_figures_are_nan_or_null_and_never_zero():
    row = SKIPPED.row()
    figures = [name for name, kind in COLUMNS.items() if kind == "float" and name != "density"]
    assert figures
    assert all(math.isnan(row[name]) for name in figures)
    assert row["rank"] is None
    assert row["reference_consistent"] is None


def test_pandas_reads_back_the_types_and_figures_that_were_written(tmp_path):
    pq.write_table(table([MEASURED, SKIPPED]), tmp_path / "part.parquet")
    frame = pd.read_parquet(tmp_path / "part.parquet")
    assert frame["m"].dtype == np.int64
    assert frame["rows_overlap"].dtype == bool
    assert frame["forward_error"].tolist()[0] == 1e-16
    assert math.isnan(frame["forward_error"][1])
    assert frame["oracle_status_lstsq_gelsd"].tolist()[0] == "ok"
    assert pd.isna(frame["oracle_status_lstsq_gelsd"][1])


def test_columns_that_hold_nothing_yet_are_typed_all_the_same():
    assert not any(pa.types.is_null(column.type) for column in table([SKIPPED]).schema)
    assert schema(["a"]).field("oracle_error_a").type == pa.float64()


def test_a_value_of_the_wrong_type_is_not_written():
    with pytest.raises(pa.ArrowException):
        table([replace(MEASURED, m="three")])
