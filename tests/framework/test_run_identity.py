from __future__ import annotations

from pathlib import Path

import pytest

import framework.trainer_state as trainer_state
from framework.run_identity import digest, what_has_changed
from tests.framework.toy_trainer import ToyTrainer, toy_settings


def test_equal_records_say_nothing_and_unknown_entries_are_passed_over():
    record = {"versions": {"torch": "2.13"}, "data": {"the files": digest(["a", 1])}}
    assert what_has_changed(record, record) == []
    assert what_has_changed({}, record) == []
    assert what_has_changed(record, {"versions": {"numpy": "2"}, "data": {}}) == []


def test_a_digest_depends_on_every_part_and_its_order():
    digests = {digest(parts) for parts in ([], ["a"], ["a", "b"], ["b", "a"], ["ab"], [1], ["1"])}
    assert len(digests) == 7


def test_other_versions_and_other_data_are_told_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class WithData(ToyTrainer):
        files = "old"

        def data_identity(self) -> dict[str, str]:
            return {"the files": digest([self.files])}

    WithData(toy_settings(), run_folder=tmp_path, device="cpu").run_training()

    def messages_of_resume() -> list[str]:
        trainer = WithData(toy_settings(), run_folder=tmp_path, device="cpu")
        messages: list[str] = []
        trainer.report = messages.append
        trainer.resume()
        return [message for message in messages if message.startswith("warning")]

    assert messages_of_resume() == []
    WithData.files = "new"
    monkeypatch.setattr(trainer_state, "software_versions", lambda: {"torch": "99.0"})
    about_versions, about_data = messages_of_resume()
    assert "-> 99.0" in about_versions
    assert "the files" in about_data
