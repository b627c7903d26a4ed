"""`write_bundle`: trained models as one zip, that Foldwise and nnU-Net install."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from framework.checkpoint import load_checkpoint
from framework.data.labels import Labels
from framework.data.raw_dataset import read_channel_names
from framework.errors import FoldwiseError
from framework.files import atomic_write, read_json
from framework.named_code import names_a_file
from framework.plans import Plans
from framework.sharing.archive import Limits, ModelArchive
from framework.sharing.bundle_files import BundleFile, content_of, files_of_models
from framework.sharing.card import CARD_NAME, Card, SharedModel, card_from_dict, data_terms, versions
from framework.sharing.machine_paths import without_machine_paths
from framework.sharing.selection import ModelFolder
from framework.sharing.weights_only import required_class, weights_only, write_weights

_DATE = (1980, 1, 1, 0, 0, 0)
"""The same for every member, so that the same models give the same file."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written."""

    path: Path
    card: Card
    sha256: str
    size: int


def write_bundle(
    models: Sequence[ModelFolder],
    path: Path,
    *,
    licence: str | None = None,
    citation: str | None = None,
    authors: Sequence[str] = (),
    description: str | None = None,
    with_predictions: bool = False,
    report: Callable[[str], None] = print,
) -> Bundle:
    """Write one zip with the models of one dataset. The same models and terms give the same bytes.

    Args:
        licence, citation, authors, description: for the card; what is not given is taken over from the card of a
            model that was itself imported.
        with_predictions: also the label images of the cross-validation.

    Raises:
        FoldwiseError: a model is incomplete, or `path` cannot be written.
    """
    datasets = {model.folder.parent for model in models}
    if len(datasets) != 1:
        raise FoldwiseError(f"a bundle holds models of one dataset, found {', '.join(map(str, sorted(datasets)))}.")
    root = models[0].folder.parent.parent
    card = card_of_models(models).with_terms(licence, citation, list(authors), description)
    files = files_of_models(models, with_predictions)
    listed: dict[str, dict[str, Any]] = {}
    built_by: dict[str, dict[str, str | None]] = {}
    with atomic_write(path) as temporary:
        with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
            for file in files:
                with _Member(archive, file.name) as member:
                    _write(file, member, root, built_by, report)
                listed[file.name] = {"sha256": member.digest.hexdigest(), "size": member.size}
            finished = [replace(model, **built_by[model.folder]) for model in card.models]  # type: ignore[arg-type]
            card = replace(card, models=finished)
            content = without_machine_paths(card.to_dict(), root) | {"files": listed}
            with _Member(archive, f"{card.dataset}/{CARD_NAME}") as member:
                member.write((json.dumps(content, indent=4) + "\n").encode("utf-8"))
        digest = _read_back(temporary, listed)
    _tell_what_is_missing(card, report)
    return Bundle(path, card, digest, path.stat().st_size)


def _write(
    file: BundleFile,
    member: _Member,
    root: Path,
    built_by: dict[str, dict[str, str | None]],
    report: Callable[[str], None],
) -> None:
    if file.form == "as it is":
        with open(file.source, "rb") as source:
            shutil.copyfileobj(source, member, 1 << 20)
    elif file.form == "weights":
        _, folder, fold, _ = file.name.split("/")
        report(f"{file.name}")
        state = load_checkpoint(file.source)
        cut = weights_only(state, folder.split("__")[2], fold.removeprefix("fold_"))
        needed = required_class(cut)
        if needed is not None:
            # A file's folder says nothing elsewhere; its name helps to ask for the right one.
            needed = needed.replace("\\", "/").rpartition("/")[2]
            cut["foldwise"] = {"trainer": needed}
        built_by[folder] = {"nnunet_trainer": cut["trainer_name"], "required_class": needed}
        write_weights(cut, member)  # type: ignore[arg-type]
    else:
        member.write(content_of(file, root))


class _Member:
    """An open member of the zip that counts and hashes what is written."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        info = zipfile.ZipInfo(name, _DATE)
        info.create_system = 3
        info.external_attr = 0o100644 << 16
        # Weights hardly shrink, and packing them takes longer than reading them.
        packed = name.endswith((".json", ".txt", ".csv"))
        info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        self._file: IO[bytes] = archive.open(info, "w", force_zip64=not packed)
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        self.digest.update(view)
        self.size += len(view)
        self._file.write(view)
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def card_of_models(models: Sequence[ModelFolder]) -> Card:
    """The card from the files of the models; what an earlier card says of terms is kept."""
    shared = []
    for model in models:
        plans = Plans.from_file(model.folder / "plans.json")
        configuration = plans.configuration(model.configuration)
        shared.append(
            SharedModel(
                folder=model.folder.name,
                trainer=model.trainer,
                plans=model.plans,
                configuration=model.configuration,
                folds=list(model.folds),
                checkpoints=list(model.checkpoints),
                network=configuration.architecture.network_class_name if configuration.architecture else "",
                previous_stage=configuration.previous_stage,
            )
        )
    source = models[0].folder / "dataset.json"
    dataset_json = read_json(source)
    labels = Labels.from_dataset_json(dataset_json, source)
    card = Card(
        dataset=models[0].dataset,
        models=shared,
        channels={str(index): name for index, name in enumerate(read_channel_names(dataset_json))},
        labels={name: list(value) if isinstance(value, tuple) else value for name, value in labels.names.items()},
        regions_class_order=list(labels.regions_class_order) if labels.regions_class_order else None,
        file_ending=str(dataset_json.get("file_ending", ".nii.gz")),
        training_data=data_terms(dataset_json),
        made_with=versions(),
    )
    earlier = models[0].folder / CARD_NAME
    if earlier.is_file():
        kept = card_from_dict(read_json(earlier), str(earlier))
        card = card.with_terms(kept.licence, kept.citation, kept.authors, kept.description)
    return card


def _read_back(path: Path, listed: dict[str, dict[str, Any]]) -> str:
    """Compare the written zip with what was meant to be in it; its SHA-256."""
    with ModelArchive(path, Limits(total_bytes=1 << 62)) as archive:
        for name, entry in listed.items():
            if archive.digest(name) != entry["sha256"]:
                raise FoldwiseError(f"{name} was not written as it should be; the disk may be damaged.")
        return archive.sha256()


def _tell_what_is_missing(card: Card, report: Callable[[str], None]) -> None:
    for model in card.models:
        needed = model.required_class
        if needed is None:
            continue
        advice = "Whoever imports the bundle needs its package installed; name it in --description."
        if names_a_file(needed):
            advice = (
                "Code does not travel with a model: give the file along and let people import with --trainer "
                "FILE.py:Class, or train with the class in an installable package."
            )
        report(f"warning: {model.folder} can be used only with the trainer class {needed}. {advice}")
        if not model.nnunet_trainer.startswith("nnUNetTrainer"):
            report(f"warning: nnU-Net cannot predict with it; it does not know {model.nnunet_trainer}.")
    if card.licence is None:
        report("warning: no licence was given, so nobody knows what they may do with the model. See --licence.")
    if card.citation is None and not card.authors:
        report("note: neither citation nor authors were given. See --citation and --authors.")
