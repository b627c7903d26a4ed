"""`History`: one row of numbers for every completed epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class History:
    """Rows of plain numbers, one an epoch, readable by column: ``history["ema_fg_dice"][-1]``.

    The row of the running epoch is filled with `add` and joins the others when the epoch is completed.
    A column has one entry per completed epoch; None where that epoch has no value.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._running: dict[str, Any] | None = None

    def start_epoch(self) -> None:
        """Open a new row."""
        self._running = {}

    def add(self, **values: Any) -> None:
        """Set numbers (or lists of numbers) of the running epoch; between two epochs, of the one just completed."""
        row = self._running if self._running is not None else self.rows[-1]
        row.update(values)

    def complete_epoch(self, epoch: int) -> None:
        """Close the running row as that of `epoch` (counted from 0)."""
        self.rows.append({"epoch": epoch, **(self._running or {})})
        self._running = None

    def latest(self, column: str) -> Any:
        """The value of the last completed epoch, or None."""
        return self.rows[-1].get(column) if self.rows else None

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self.columns:
            raise KeyError(f"history has no column '{column}'; columns: {', '.join(self.columns)}")
        return [row.get(column) for row in self.rows]

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    @property
    def columns(self) -> list[str]:
        """All column names, in order of first appearance."""
        return list(dict.fromkeys(key for row in self.rows for key in row))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows], "running": self._running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]
        self._running = state["running"]
