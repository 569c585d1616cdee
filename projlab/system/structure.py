"""Structure of a system that a variant can use."""

from projlab.errors import InputError
from projlab.system.rows import Rows


def require_disjoint(rows: Rows, names: tuple[str, ...]) -> None:
    """Raise `InputError` unless no two rows share a column."""
    overlap = rows.overlap()
    if overlap is not None:
        i, j, column = overlap
        raise InputError(
            f"single_row takes rows that share no column, but {names[i]} and {names[j]} share "
            f'column {column}; use variant="qr", or "auto"'
        )
