"""Where the results of an evaluation are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from framework.data.labels import LabelKey
from framework.evaluation.aggregate import Aggregate, write_aggregates
from framework.evaluation.comparison import Difference, write_comparison
from framework.evaluation.evaluate import Evaluation
from framework.evaluation.metrics_table import write_metrics_table
from framework.evaluation.summary import write_summary
from framework.files import refuse_unwritable_folder


@dataclass(frozen=True)
class OutputFiles:
    """The files of one evaluation; `summary` None if nothing but pictures is written."""

    folder: Path
    summary: Path | None

    @classmethod
    def at(cls, output: str | None, prediction: Path) -> OutputFiles:
        """Beside the predictions, in the folder given, or with the summary file given.

        A single predicted file has no place for results unless one is given: its folder may hold a summary of others.
        """
        if output is None:
            return cls(prediction, prediction / "summary.json") if prediction.is_dir() else cls(Path.cwd(), None)
        chosen = Path(output)
        if chosen.suffix == ".json":
            return cls(chosen.parent, chosen)
        return cls(chosen, chosen / "summary.json")

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    def check_writable(self) -> None:
        """FoldwiseError if nothing can be written there: better said before the work than after it."""
        refuse_unwritable_folder(self.folder, "Choose another folder with -o.")

    def write_scores(
        self, evaluation: Evaluation, aggregates: Mapping[LabelKey, Mapping[str, Aggregate]]
    ) -> list[Path]:
        """summary.json, metrics.csv and metrics_aggregated.csv; returns their paths."""
        if self.summary is None:
            return []
        table, aggregated = self._table("metrics"), self._table("metrics_aggregated")
        write_summary(evaluation.summary(), self.summary)
        write_metrics_table(table, evaluation.cases, evaluation.labels.names)
        write_aggregates(aggregated, evaluation, aggregates)
        return [self.summary, table, aggregated]

    def write_comparison(self, differences: Sequence[Difference], names: Mapping[LabelKey, str]) -> list[Path]:
        """comparison.csv; returns its path."""
        if self.summary is None:
            return []
        path = self._table("comparison")
        write_comparison(path, differences, names)
        return [path]

    def _table(self, name: str) -> Path:
        """``metrics.csv`` beside ``summary.json``, ``mine_metrics.csv`` beside ``mine.json``."""
        assert self.summary is not None
        prefix = "" if self.summary.stem == "summary" else f"{self.summary.stem}_"
        return self.folder / f"{prefix}{name}.csv"
