"""Where the members of a stranger's zip may lie, and whether they are what its card lists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from framework.errors import FoldwiseError
from framework.files import parse_json
from framework.sharing.archive import ArchiveError, ModelArchive
from framework.sharing.bundle_files import INSTRUCTIONS
from framework.sharing.card import CARD_NAME, Card, card_from_dict
from framework.sharing.member_names import printable
from framework.sharing.selection import DATASET_NAME, parts_of

_ENDINGS = (
    ".json", ".pth", ".pkl", ".npz", ".txt", ".csv", ".md", ".png", ".pdf", ".jpg",
    ".nii.gz", ".nii", ".nrrd", ".mha", ".gipl", ".tif", ".tiff", ".bmp",
)  # fmt: skip
_CHECKPOINT = re.compile(r"fold_(\d+|all)/checkpoint_\w+\.pth")
_LITTER = re.compile(r"(__MACOSX/|(.*/)?(\.DS_Store|Thumbs\.db|desktop\.ini)$)")


@dataclass(frozen=True)
class Layout:
    """What a zip holds, by its names and its card; no content but the card's has been read."""

    dataset: str
    members: tuple[str, ...]
    """Everything that is unpacked."""
    card: Card | None
    sha256: dict[str, str]
    """By member; empty where the zip has no card."""

    @property
    def model_folders(self) -> list[str]:
        found = [name.split("/")[1] for name in self.members if name.count("/") > 1]
        return sorted({name for name in found if parts_of(name)})

    @property
    def units(self) -> list[str]:
        """What is moved into the dataset's results as a whole: model folders, ensembles, single files."""
        units = []
        for name in self.members:
            parts = name.split("/")
            units.append("/".join(parts[1:3] if parts[1] == "ensembles" else parts[1:2]))
        return sorted(set(units))


def read_layout(archive: ModelArchive) -> Layout:
    """Read the card and compare it with the members of the zip.

    Raises:
        ArchiveError: members that are missing, that nobody listed, of other sizes, or that belong to no model.
        FoldwiseError: the card is damaged or of another version.
    """
    cards = [name for name in archive.members if name.count("/") == 1 and name.endswith(f"/{CARD_NAME}")]
    members = [name for name in archive.members if name not in cards]
    card: Card | None = None
    digests: dict[str, str] = {}
    if cards:
        card, digests = _read_card(archive, cards[0], members)
    else:
        members = [name for name in members if not _LITTER.match(name)]
    if not members:
        raise ArchiveError(f"{archive.path} is empty.")
    datasets = sorted({name.split("/")[0] for name in members})
    dataset = datasets[0]
    if len(datasets) != 1 or not DATASET_NAME.fullmatch(dataset):
        shown = ", ".join(printable(name, 100) for name in datasets[:3])
        raise ArchiveError(
            f"{archive.path} holds no model as Foldwise and nnU-Net pack it: at the top it has {shown}, expected one "
            "folder DatasetXXX_Name. If it is a zip of zips, unpack it and import each of them."
        )
    if card is not None and card.dataset != dataset:
        raise ArchiveError(f"{archive.path}: its card is of {printable(card.dataset, 200)}, its files of {dataset}.")
    for name in members:
        reason = _why_unexpected(name.partition("/")[2])
        if reason is not None:
            raise archive.refusal(name, reason)
    layout = Layout(dataset, tuple(members), card, digests)
    _check_models(archive, layout)
    return layout


def _read_card(archive: ModelArchive, name: str, members: list[str]) -> tuple[Card, dict[str, str]]:
    value = json_value(archive.read(name), f"{name} in {archive.path}")
    card = card_from_dict(value, f"{name} in {archive.path}")
    files: Any = value.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("size"), int)
        for entry in files.values()
    ):
        raise FoldwiseError(f"{name} in {archive.path} lists no 'files' with the sha256 and the size of each.")
    for member in members:
        if member not in files:
            raise archive.refusal(member, "it is not listed in the bundle's card, so its author did not put it there")
        size = archive.members[member].file_size
        if size != files[member]["size"]:
            raise archive.refusal(member, f"it has {size} bytes, but the bundle's card says {files[member]['size']}")
    missing = sorted(set(files) - set(members))
    if missing:
        raise ArchiveError(
            f"{archive.path}: {len(missing)} members that its card lists are missing, such as "
            f"'{printable(missing[0], 200)}'. Get the file again."
        )
    return card, {member: files[member]["sha256"].lower() for member in members}


def _check_models(archive: ModelArchive, layout: Layout) -> None:
    folders = layout.model_folders
    if layout.card is not None and sorted(model.folder for model in layout.card.models) != folders:
        listed = ", ".join(printable(model.folder, 100) for model in layout.card.models)
        raise ArchiveError(f"{archive.path}: its card lists the models {listed}, it holds {', '.join(folders)}.")
    for folder in folders:
        place = f"{layout.dataset}/{folder}"
        missing = [name for name in ("plans.json", "dataset.json") if f"{place}/{name}" not in layout.members]
        if not any(name.startswith(f"{place}/") and name.endswith(".pth") for name in layout.members):
            missing.append("a checkpoint")
        if missing:
            raise ArchiveError(f"{archive.path}: {place} lacks {' and '.join(missing)}, so it cannot predict.")
    if not folders:
        raise ArchiveError(
            f"{archive.path} holds no folder {layout.dataset}/TRAINER__PLANS__CONFIGURATION, so no model."
        )


def _why_unexpected(name: str) -> str | None:
    """Why a file does not belong to a model; `name` is relative to the dataset's folder."""
    top, _, inside = name.partition("/")
    if not name.lower().endswith(_ENDINGS):
        return "a model has no files of this kind"
    if parts_of(top) and inside:
        if name.endswith(".pth") and not _CHECKPOINT.fullmatch(inside):
            return "a checkpoint is expected as fold_X/checkpoint_NAME.pth"
        return None
    if name.endswith(".pth"):
        return "a checkpoint is expected in a model's folder"
    if (top == "ensembles" and inside.count("/") == 1) or name in INSTRUCTIONS:
        return None
    return "it belongs to no model (TRAINER__PLANS__CONFIGURATION, ensembles, inference_information.json)"


def json_value(content: bytes, source: str) -> Any:
    """A stranger's JSON; every way in which it can be broken becomes one message, fit for a terminal."""
    try:
        return parse_json(content, source)
    except FoldwiseError as error:
        raise FoldwiseError(printable(error, 500)) from None
