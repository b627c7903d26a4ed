"""`Card`: what a shared model is, whose it is, and under which terms; ``foldwise_model.json`` in the bundle."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from framework import __version__
from framework.errors import FoldwiseError
from framework.sharing.member_names import printable
from framework.validation import read_block

CARD_NAME = "foldwise_model.json"
FORMAT, FORMAT_VERSION = "foldwise model", 1
_NOT_OF_THE_CARD = ("format", "format_version", "files", "bundle_sha256")


@dataclass(frozen=True)
class SharedModel:
    """One folder ``TRAINER__PLANS__CONFIGURATION`` of a bundle."""

    folder: str
    trainer: str
    plans: str
    configuration: str
    folds: list[str]
    checkpoints: list[str]
    network: str = ""
    nnunet_trainer: str = ""
    """The class by which nnU-Net builds the network."""
    required_class: str | None = None
    """A trainer class that must be installed to build the network; None if the plans describe it."""
    previous_stage: str | None = None


@dataclass(frozen=True)
class Card:
    """What is known of a bundle. Texts are its author's; `lines` makes them fit for a terminal."""

    dataset: str
    models: list[SharedModel]
    channels: dict[str, str]
    labels: dict[str, Any]
    regions_class_order: list[int] | None = None
    file_ending: str = ".nii.gz"
    licence: str | None = None
    citation: str | None = None
    authors: list[str] = field(default_factory=list)
    description: str | None = None
    training_data: dict[str, Any] = field(default_factory=dict)
    """Name, licence and reference of the dataset, as its dataset.json states them."""
    made_with: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(self)

    def with_terms(
        self, licence: str | None, citation: str | None, authors: list[str], description: str | None
    ) -> Card:
        """The card with those of the four that are given replaced."""
        given = {"licence": licence, "citation": citation, "authors": authors, "description": description}
        return replace(self, **{key: value for key, value in given.items() if value})  # type: ignore[arg-type]

    def lines(self) -> list[str]:
        """The card as text, a field a line."""
        data = self.training_data
        shown = {
            "dataset": self.dataset,
            "description": self.description,
            "licence": self.licence or "not stated. Ask the authors before you use the model",
            "citation": self.citation,
            "authors": ", ".join(self.authors),
            "channels": ", ".join(f"{index} {name}" for index, name in self.channels.items()),
            "labels": ", ".join(f"{name} {value}" for name, value in self.labels.items()),
            "training data": ", ".join(f"{key} {value}" for key, value in data.items() if value),
            "made with": ", ".join(f"{name} {version}" for name, version in self.made_with.items()),
        }
        lines = [f"{name + ':':15}{printable(value)}" for name, value in shown.items() if value]
        for model in self.models:
            lines.append(
                f"{'model:':15}{printable(model.folder, 300)}, folds {printable(' '.join(model.folds), 300)}, "
                f"checkpoints {printable(' '.join(model.checkpoints), 300)}"
            )
        return lines


def card_from_dict(value: Any, source: str) -> Card:
    """Read a card, of this version only.

    Raises:
        FoldwiseError: it is none, of another version, or a field has another type; lists every mistake.
    """
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        raise FoldwiseError(f"{source} is no description of a model: 'format' is not \"{FORMAT}\".")
    version = value.get("format_version")
    if version != FORMAT_VERSION:
        raise FoldwiseError(
            f"{source} has format version {printable(version, 50)}; this Foldwise ({__version__}) reads version "
            f"{FORMAT_VERSION}. Install a newer Foldwise, or ask for a bundle of that version."
        )
    entries = {key: entry for key, entry in value.items() if key not in _NOT_OF_THE_CARD}
    problems: list[str] = []
    models = []
    listed = entries.pop("models", None)
    for index, entry in enumerate(listed if isinstance(listed, list) else []):
        block = _block(SharedModel, entry, f"{source}: models[{index}]", problems)
        models += [SharedModel(**block)] if block else []
    block = _block(Card, entries, source, problems)
    if not models:
        problems.append(f"{source}: 'models' lists no model.")
    if problems:
        raise FoldwiseError(printable("\n".join(problems)))
    return Card(**block, models=models)


def versions() -> dict[str, str]:
    """Of the programs that are at work here."""
    import numpy
    import torch

    return {
        "foldwise": __version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def data_terms(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataset.json says about where the data come from."""
    found = {key: dataset_json.get(key) for key in ("name", "licence", "license", "reference", "release")}
    return {key.replace("license", "licence"): str(value) for key, value in found.items() if value}


def _block(cls: Any, entry: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """The fields of one object; empty if it cannot be built."""
    if not isinstance(entry, dict):
        problems.append(f"{where}: expected an object {{...}}.")
        return {}
    count = len(problems)
    block = read_block(cls, entry, where, problems)
    required = {"SharedModel": ("folder", "trainer", "plans", "configuration", "folds", "checkpoints")}
    missing = [key for key in required.get(cls.__name__, ("dataset", "channels", "labels")) if key not in block]
    if missing and len(problems) == count:
        problems.append(f"{where}: {', '.join(missing)} missing.")
    return block if len(problems) == count else {}
