"""Zips made to do harm, and damaged ones: each is refused, by name of the member, before anything is written."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from framework.commands.import_model import main as fw_import
from framework.sharing.archive import ArchiveError, Limits, ModelArchive
from framework.sharing.member_names import colliding_names, printable, why_refused
from tests.framework.sharing.builder import MODEL, contents, make_bundle, tree, write_zip


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    return contents(make_bundle(tmp_path / "source").path)


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Import into an empty folder; the message, after a look that nothing was left anywhere."""
    before = tree(path.parent)
    assert fw_import([str(path), "--into", str(path.parent / "results" / "deep")]) == 2
    assert tree(path.parent) == before
    return capsys.readouterr().err


def entry(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/cron.d/evil", "its path is absolute"),
        ("../outside.json", r"leads out of the folder (..)"),
        (f"{MODEL}/../../../outside.json", r"leads out of the folder (..)"),
        ("..\\outside.json", r"leads out of the folder (..)"),
        ("C:/outside.json", "drive letter"),
        ("C:outside.json", "drive letter"),
        ("\\\\server\\share\\x.json", "absolute"),
        (f"{MODEL}/a\\b.json", "not allowed in file names"),
        (f"{MODEL}/a:stream.json", "not allowed in file names"),
        (f"{MODEL}/a\x1b[2J.json", "not allowed in file names"),
        (f"{MODEL}//a.json", "empty part"),
        (f"{MODEL}/./a.json", "empty part"),
        (f"{MODEL}/{'a' * 250}.json", "longer than 200 bytes"),
        (f"{MODEL}/{'a/' * 600}b.json", "longer than 1000 bytes"),
        (f"{MODEL}/con.json", "no file name on every system"),
        (f"{MODEL}/fold_0./x.json", "no file name on every system"),
        (f"{MODEL}/model.py", "no files of this kind"),
        (f"{MODEL}/lib.so", "no files of this kind"),
        ("evil.json", "no model as Foldwise and nnU-Net pack it"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(
    name: str, reason: str, tmp_path: Path, members: dict[str, bytes], capsys: pytest.CaptureFixture[str]
):
    # with a card such a member is refused as not listed at the latest; without one by its name alone
    without_card = {key: value for key, value in members.items() if not key.endswith("foldwise_model.json")}
    for number, others in enumerate((members, without_card)):
        path = write_zip(tmp_path / f"{number}.zip", [*others.items(), (name, b"{}")])
        message = refused(path, capsys)
        assert reason in message or (number == 0 and "not listed in the bundle's card" in message)
        assert "\x1b" not in message


def test_a_name_with_a_zero_byte_is_refused(
    tmp_path: Path, members: dict[str, bytes], capsys: pytest.CaptureFixture[str]
):
    path = write_zip(tmp_path / "m.zip", [*members.items(), (f"{MODEL}/xyzzy.json", b"{}")])
    path.write_bytes(path.read_bytes().replace(b"xyzzy", b"x\x00zzy"))
    assert "zero byte" in refused(path, capsys)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (stat.S_IFLNK | 0o777, "it is a link"),
        (stat.S_IFIFO | 0o644, "neither a file nor a folder"),
        (stat.S_IFCHR | 0o644, "neither a file nor a folder"),
    ],
)
def test_links_and_devices_are_refused(
    mode: int, reason: str, tmp_path: Path, members: dict[str, bytes], capsys: pytest.CaptureFixture[str]
):
    path = write_zip(tmp_path / "m.zip", [*members.items(), (entry(f"{MODEL}/link.json", mode), b"/etc/passwd")])
    assert reason in refused(path, capsys)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"{MODEL}/plans.json", "occurs twice"),
        (f"{MODEL}/Plans.JSON", "are one file on some systems"),
        (f"{MODEL}/plans.json/x.json", "are one file on some systems"),
    ],
)
def test_two_members_for_one_file_are_refused(
    name: str, reason: str, tmp_path: Path, members: dict[str, bytes], capsys: pytest.CaptureFixture[str]
):
    path = write_zip(tmp_path / "m.zip", [*members.items(), (name, b"{}")])
    message = refused(path, capsys)
    assert reason in message
    assert f"{MODEL}/plans.json" in message


def test_forms_of_accents_count_as_one_name():
    assert colliding_names(["a/\u00e9.json", "a/e\u0301.json"]) == ("a/\u00e9.json", "a/e\u0301.json")
    assert colliding_names(["a/b.json", "a/c.json"]) is None
    assert why_refused("Dataset001_Lunge_ä/T__P__C/fold_0/x.pth") is None
    assert printable("a\x1b[31m\u202eb\n") == "a?[31m?b\n"


def test_encrypted_members_and_unusual_packing_are_refused(
    tmp_path: Path, members: dict[str, bytes], capsys: pytest.CaptureFixture[str]
):
    path = write_zip(tmp_path / "m.zip", members.items())
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    assert "it is encrypted" in refused(tmp_path / "locked.zip", capsys)
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    assert "a method other than deflate" in refused(tmp_path / "lzma.zip", capsys)


def test_zip_bombs_are_refused(tmp_path: Path, members: dict[str, bytes], capsys: pytest.CaptureFixture[str]):
    path = write_zip(tmp_path / "m.zip", [*members.items(), (f"{MODEL}/zeros.txt", bytes(70 << 20))])
    assert "as in a zip bomb" in refused(path, capsys)
    for limits, reason in (
        (Limits(members=3), "has 7 members; more than 3"),
        (Limits(total_bytes=1000), r"more than 0\.0 GB are not unpacked\. .*--max-size"),
    ):
        with pytest.raises(ArchiveError, match=reason):
            ModelArchive(path, Limits(**{"ratio": 10**6} | {k: v for k, v in vars(limits).items() if k != "ratio"}))


def test_members_that_share_their_bytes_are_refused(tmp_path: Path):
    path = write_zip(tmp_path / "m.zip", [("Dataset001_A/a.txt", bytes(1000)), ("Dataset001_A/b.txt", bytes(1000))])
    content = bytearray(path.read_bytes())
    second = content.rfind(b"PK\x01\x02")
    struct.pack_into("<I", content, second + 42, 0)  # its data begin where those of the first do
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="shares its bytes with another member"):
        ModelArchive(path)


def test_more_content_than_is_stated_is_refused(tmp_path: Path):
    path = write_zip(tmp_path / "m.zip", [("Dataset001_A/a.txt", bytes(5_000_000))])
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.find(signature) + offset, 1000)
        struct.pack_into("<I", content, content.find(signature) + offset - 8, zlib.crc32(bytes(999)))
    path.write_bytes(content)
    with ModelArchive(path) as archive:
        with pytest.raises(ArchiveError, match=r"a\.txt': it is damaged"):
            archive.unpack("Dataset001_A/a.txt", tmp_path / "out.txt")
        assert (tmp_path / "out.txt").stat().st_size <= 1000


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_zip_that_was_cut_off_is_told(
    kept: float, tmp_path: Path, members: dict[str, bytes], capsys: pytest.CaptureFixture[str]
):
    path = write_zip(tmp_path / "m.zip", members.items())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert "cut off on its way" in refused(path, capsys)


def test_what_is_no_zip_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "page.zip"
    path.write_text("<html>404 not found</html>")
    assert "cannot be read as a zip" in refused(path, capsys)
    assert fw_import([str(tmp_path / "nothing.zip")]) == 2
    assert "is not a file" in capsys.readouterr().err
    assert fw_import(["https://example.org/model.zip"]) == 2
    assert "Download the file first" in capsys.readouterr().err
    assert "is empty" in refused(write_zip(tmp_path / "empty.zip", []), capsys)


def test_a_damaged_member_is_named(tmp_path: Path, members: dict[str, bytes], capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    content = bytearray(path.read_bytes())
    position = content.find(members[f"{MODEL}/fold_0/checkpoint_final.pth"]) + 500
    content[position] ^= 0xFF
    path.write_bytes(content)
    message = refused(path, capsys)
    assert f"{MODEL}/fold_0/checkpoint_final.pth': it is damaged" in message
