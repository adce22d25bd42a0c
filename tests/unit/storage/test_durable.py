"""Small file operations, where others meddle."""

import errno
import os
from pathlib import Path

import pytest

from vdsm.storage import durable


def test_a_file_whose_draft_another_host_cleaned_up_is_written_all_the_same(tmp_path: Path) -> None:
    taken: list[Path] = []

    def take_away(draft: Path) -> None:
        if not taken:
            taken.append(draft)
            draft.unlink()

    durable.write_file(tmp_path / "record", tmp_path / "record.new", b"new", 0o644, owner=take_away)
    assert [path.name for path in tmp_path.iterdir()] == ["record"]
    assert (tmp_path / "record").read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["path", "descriptor"])
def test_a_descriptor_of_somebody_else_that_closes_tells_nothing_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "volume").write_bytes(b"data")
    answers = iter([OSError(errno.EBADFD, "File descriptor in bad state")] * 2)
    true_look = durable._look

    def look_as_gluster(file: Path | int) -> os.stat_result:
        for error in answers:
            raise error
        return true_look(file)

    monkeypatch.setattr(durable, "_look", look_as_gluster)
    with durable.opened(tmp_path / "volume") as descriptor:
        assert durable.look(descriptor if kind == "descriptor" else tmp_path / "volume").st_size == 4
    assert next(answers, None) is None


def test_a_file_that_stays_bad_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path | int) -> os.stat_result:
        raise OSError(errno.EBADFD, "File descriptor in bad state")

    monkeypatch.setattr(durable, "_look", fail)
    with pytest.raises(OSError, match="bad state"):
        durable.look(tmp_path)
