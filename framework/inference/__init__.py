"""Prediction with trained folds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.inference.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    # The parts of this room are imported by trainers, which the predictor in turn needs: it comes when asked for.
    if name == "Predictor":
        from framework.inference.predictor import Predictor

        return Predictor
    raise AttributeError(name)
