from pathlib import Path

from vdsm.testing import bootsector


def test_number_of_writes_is_in_the_sector() -> None:
    few, many = bootsector.make_writer(1), bootsector.make_writer(4000)
    assert len(few) == len(many) == 512
    assert few.endswith(b"\x55\xaa")
    assert few[0x110:0x114] == (2048 + 64).to_bytes(4, "little")
    assert few[:0x110] == many[:0x110] and few[0x114:] == many[0x114:]


def test_disk_starts_with_the_writer(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    bootsector.create_writer_disk(disk, 2**20, writes=3)
    content = disk.read_bytes()
    assert len(content) == 2**20
    assert content[:512] == bootsector.make_writer(3)
    assert not any(content[512:])
