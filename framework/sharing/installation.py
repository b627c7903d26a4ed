"""`install_bundle`: a shared model into the results folder, whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from framework.errors import FoldwiseError
from framework.files import write_json
from framework.run_folder import RunFolder
from framework.sharing.archive import ArchiveError, Limits, ModelArchive
from framework.sharing.bundle import card_of_models
from framework.sharing.bundle_layout import Layout, read_layout
from framework.sharing.card import CARD_NAME, Card
from framework.sharing.content_checks import checked_content, rename_dataset
from framework.sharing.selection import DATASET_NAME, ModelFolder


def install_bundle(
    path: Path,
    results: Path,
    *,
    dataset: str | None = None,
    overwrite: bool = False,
    trainer: str | None = None,
    limits: Limits | None = None,
    report: Callable[[str], None] = print,
) -> list[ModelFolder]:
    """Check a bundle of ours, or a zip that nnU-Net exported, and put its models into the results folder.

    Args:
        path: the zip.
        results: the results root; made if it is not there.
        dataset: ``DatasetXXX_Name`` in place of the bundle's.
        overwrite: move what has the same name aside, as ``NAME_before_1``.
        trainer: location of the class that builds the network, where the bundle needs one that is not installed.
        report: is given the card, line by line, and what was moved aside.

    Returns:
        The models, previous stages of cascades first.

    Raises:
        FoldwiseError: says what is wrong, and where. Nothing has changed then.
    """
    if dataset is not None and not DATASET_NAME.fullmatch(dataset):
        raise FoldwiseError(f"'{dataset}' is no name of a dataset. Expected DatasetXXX_Name, such as Dataset123_Liver.")
    with ModelArchive(path, limits) as archive:
        layout = read_layout(archive)
        _check_sums(archive, layout, report)
        target = results / (dataset or layout.dataset)
        present = _present(target, layout.units)
        if present and not overwrite:
            raise FoldwiseError(
                f"{target} holds already: {', '.join(present)}. Pass --overwrite to keep these under other names "
                "(..._before_1) and import, or --rename DatasetXXX_Other."
            )
        _check_space(archive, results)
        bundle_sum = archive.sha256()
        with _unpacked(archive, layout, results) as folder:
            built_by = checked_content(folder, trainer=trainer)
            card, models = _finished_card(archive, layout, folder, target, built_by)
            if dataset is not None and dataset != layout.dataset:
                rename_dataset(folder, layout.dataset, dataset)
            if layout.card is None:
                for line in card.lines():
                    report(line)
            for model in card.models:
                value = replace(card, models=[model]).to_dict() | {"bundle_sha256": bundle_sum}
                write_json(folder / model.folder / CARD_NAME, value)
            _place(folder, target, layout.units, report)
    _warn_of_number(target, report)
    return models


def _check_sums(archive: ModelArchive, layout: Layout, report: Callable[[str], None]) -> None:
    """Read every member once; nothing is written."""
    for name in layout.members:
        found = archive.digest(name)
        if layout.card is not None and found != layout.sha256[name]:
            raise archive.refusal(name, "its SHA-256 differs from the bundle's card: damaged, or changed by somebody")
    if layout.card is not None:
        report(f"{archive.path.name}: {len(layout.members)} files, all as their checksums say")
        for line in layout.card.lines():
            report(line)
    else:
        report(
            f"{archive.path.name} has no card ({CARD_NAME}): it was packed by nnU-Net or by hand. There are no "
            "checksums to compare with, and nothing says who made the model and what may be done with it."
        )


def _finished_card(
    archive: ModelArchive, layout: Layout, folder: Path, target: Path, built_by: dict[str, dict[str, str | None]]
) -> tuple[Card, list[ModelFolder]]:
    """The card and the models as they will be installed: facts from the files, terms from the bundle's card."""
    unpacked = []
    for name in layout.model_folders:
        files = sorted((folder / name).glob("fold_*/checkpoint_*.pth"))
        folds = tuple(dict.fromkeys(file.parent.name.removeprefix("fold_") for file in files))
        tags = tuple(dict.fromkeys(file.stem.removeprefix("checkpoint_") for file in files))
        unpacked.append(ModelFolder(folder / name, folds, tags))
    facts = card_of_models(unpacked)
    models = [replace(model, **built_by[model.folder]) for model in facts.models]  # type: ignore[arg-type]
    stated = layout.card
    if stated is not None and (stated.channels, stated.labels) != (facts.channels, facts.labels):
        raise ArchiveError(
            f"{archive.path}: channels or labels on its card are not those of {layout.model_folders[0]}/dataset.json."
        )
    later = {model.folder for model in models if model.previous_stage is not None}
    unpacked.sort(key=lambda model: model.folder.name in later)
    installed = [replace(model, folder=target / model.folder.name) for model in unpacked]
    card = replace(facts, dataset=target.name, models=models, made_with=stated.made_with if stated else {})
    if stated is not None:
        card = card.with_terms(stated.licence, stated.citation, stated.authors, stated.description)
    return card, installed


@contextmanager
def _unpacked(archive: ModelArchive, layout: Layout, results: Path) -> Iterator[Path]:
    """The members below a temporary folder in the results root, which is removed at the end whatever happens."""
    missing = [folder for folder in (results, *results.parents) if not folder.exists()]
    temporary = results / f".import.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        for name in layout.members:
            digest = archive.unpack(name, temporary / name)
            if layout.card is not None and digest != layout.sha256[name]:
                raise archive.refusal(name, "it changed while it was unpacked")
        yield temporary / layout.dataset
    except OSError as error:
        raise FoldwiseError(
            f"{error.filename or results} could not be written: {error.strerror or error}. Nothing was imported; free "
            "some space or choose another folder with --into."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # not empty: something was imported
            for made in missing:
                made.rmdir()


def _place(folder: Path, target: Path, units: Sequence[str], report: Callable[[str], None]) -> None:
    """Move what was unpacked into the dataset's results; if one step fails, all are undone."""
    undo: list[tuple[Path, Path]] = []
    made = [place for place in (target, target / "ensembles") if not place.exists()]
    try:
        for unit in units:
            source, place = folder / unit, target / unit
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                _refuse_if_in_use(place)
                kept = _free_name(place)
                place.rename(kept)
                undo.append((kept, place))
                report(f"{place} is kept as {kept.name}")
            source.rename(place)
            undo.append((place, source))
    except BaseException:
        for now, before in reversed(undo):
            now.rename(before)
        for place in reversed(made):
            if place.is_dir():
                place.rmdir()
        raise


def _present(target: Path, units: Sequence[str]) -> list[str]:
    # exists() follows a link; a broken one stands in the way as well.
    return [unit for unit in units if (target / unit).exists() or (target / unit).is_symlink()]


def _free_name(place: Path) -> Path:
    ending = place.suffix if place.is_file() else ""
    number = 1
    while (kept := place.with_name(f"{place.name.removesuffix(ending)}_before_{number}{ending}")).exists():
        number += 1
    return kept


def _refuse_if_in_use(model: Path) -> None:
    """A fold that is being trained just now is not moved away under its trainer."""
    for lock in model.glob("fold_*/.lock"):
        run = RunFolder(lock.parent)
        run.lock()
        run.unlock()


def _check_space(archive: ModelArchive, results: Path) -> None:
    existing = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if archive.total_bytes > free:
        raise ArchiveError(
            f"{archive.path} unpacks to {archive.total_bytes / 1e9:.2f} GB, but {existing} has {free / 1e9:.2f} GB "
            "free. Free some space, or choose another folder with --into."
        )


def _warn_of_number(target: Path, report: Callable[[str], None]) -> None:
    others = sorted(
        entry.name
        for entry in os.scandir(target.parent)
        if entry.is_dir() and entry.name[:10] == target.name[:10] and entry.name != target.name
    )
    if others:
        report(
            f"warning: {', '.join(others)} has the same number as {target.name}; programs that are given a number "
            "cannot tell them apart. --rename gives an imported model another name."
        )
