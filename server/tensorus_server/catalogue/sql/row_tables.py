"""The tables that a read of tensors looks at: those of current tensors, or those of replaced and deleted ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS

__all__ = ["ID_INDEX", "LIVE", "RowTables", "past"]

ID_INDEX = "sqlite_autoindex_tensor_1"
"""SQLite's name for the index of UNIQUE (ds, id)."""

_COLUMNS = ", ".join(f't."{name}"' for name in TENSOR_COLUMNS)


@dataclass(frozen=True)
class RowTables:
    """Names of tables with the same columns, and which of their rows count. Statements call the row `t`."""

    tensor: str
    payload: str
    attr: str
    id_index: str
    """An index of (ds, id)."""
    at: int | None
    """Rows of tensors that were replaced or deleted up to this generation do not count; None: all rows count."""

    @property
    def visible(self) -> str:
        """The condition for rows that count, which begins with AND; it has the parameters `bounds`."""
        return "" if self.at is None else " AND t.until_generation > ?"

    @property
    def bounds(self) -> list[int]:
        """The parameters of `visible`."""
        return [] if self.at is None else [self.at]

    @cached_property
    def lookups(self) -> dict[tuple[str, bool], str]:
        """The statements of `find_tensors`, by column and by whether they read payloads.

        Their parameters are the values, the dataset's number, and `lookup_bounds`.
        """
        visible = "" if self.at is None else " AND t.seq <= ? AND t.until_generation > ?"
        payloads = {
            False: ("NULL", ""),
            True: ("CAST(p.bytes AS BLOB)", f" LEFT JOIN {self.payload} p ON p.seq = t.seq"),
        }
        return {
            (column, with_payloads): f"SELECT wanted.key, {_COLUMNS}, {payload} FROM json_each(?) wanted "
            f"CROSS JOIN {self.tensor} t ON t.ds = ? AND t.{column} = {value}{visible}{join}"
            for column, value in (("id", "wanted.value"), ("seq", "CAST(wanted.value AS BIGINT)"))
            for with_payloads, (payload, join) in payloads.items()
        }

    @cached_property
    def lookup_bounds(self) -> tuple[int, ...]:
        """The last parameters of `lookups`."""
        return () if self.at is None else (self.at, self.at)

    @cached_property
    def with_payload(self) -> str:
        """SELECT and FROM of rows for `tensor_from_row`, with inline payloads."""
        return (
            f"SELECT {_COLUMNS}, CAST(p.bytes AS BLOB) FROM {self.tensor} t LEFT JOIN {self.payload} p ON p.seq = t.seq"
        )

    @cached_property
    def without_payload(self) -> str:
        """SELECT and FROM of rows for `tensor_from_row`, without inline payloads."""
        return f"SELECT {_COLUMNS}, NULL FROM {self.tensor} t"


LIVE = RowTables("tensor", "payload", "attr", ID_INDEX, at=None)
"""The tables of current tensors."""


def past(at: int | None) -> RowTables:
    """Return the tables of replaced and deleted tensors, for reads of the state at this generation; None: of all of them."""
    return RowTables("past_tensor", "past_payload", "past_attr", "past_tensor_id", at)
