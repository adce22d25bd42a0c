"""Small file operations, where others meddle."""

from pathlib import Path

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
