"""What a survey found, as rows of plain values: chains, one volume, leases, findings."""

from collections.abc import Iterable, Mapping

from msgspec.structs import asdict

from vdsm.core.errors import NodeError
from vdsm.core.ids import is_uuid
from vdsm.storage.errors import VolumeDoesNotExist
from vdsm.storage.examination.survey import Finding, Survey

Row = Mapping[str, None | bool | int | str]


def list_chains(survey: Survey) -> list[Row]:
    """A row for each volume, by image, each after its parent, data without a record last; `faults` are the image's."""
    names = ("parent_id", "role", "format", "legality", "capacity_bytes")
    return [
        {
            "image_id": image.image_id,
            "volume_id": volume_id,
            **{name: getattr(image.records.get(volume_id), name, None) for name in names},
            "size_bytes": image.stats[volume_id].st_size if volume_id in image.stats else None,
            "faults": len(image.findings),
        }
        for image in survey.list_images()
        for volume_id in (*image.records, *filter(is_uuid, sorted(image.stats.keys() - image.records.keys())))
    ]


def describe_volume(survey: Survey, volume_id: str) -> Row:
    """All that a volume's record, its file's head and its lease tell. Raises VolumeDoesNotExist (201)."""
    for image in survey.list_images():
        record = image.records.get(volume_id)
        if record is None or record.image_id != image.image_id:
            continue
        row = {"volume_id": volume_id, **asdict(record)}
        if volume_id in image.stats:
            stats = image.stats[volume_id]
            row |= {"size_bytes": stats.st_size, "allocated_bytes": stats.st_blocks * 512, "links": stats.st_nlink}
        if volume_id in image.files:
            row |= {f"file_{name}": value for name, value in asdict(image.files[volume_id]).items() if value != ()}
        for path, lease in survey.list_leases():
            if path.name == f"{volume_id}.lease":
                row |= {"lease_path": str(path), "lease_owner": lease.owner if lease.is_used else None}
        row["faults"] = "; ".join(found.text for found in image.findings if volume_id in found.place)
        return row
    raise VolumeDoesNotExist(volume_id)


def list_leases(survey: Survey) -> list[Row]:
    """A row for each record of sanlock's: `owner` was the last to hold it, and holds it still where it `is_used`."""
    return [{"file": path.name, "is_used": one.is_used, **asdict(one)} for path, one in survey.list_leases()]


def list_findings(findings: Iterable[Finding], repaired: Iterable[tuple[Finding, NodeError | None]] = ()) -> list[Row]:
    """A row for each finding, with what became of it: first those that were repaired, then those that are left."""
    failures = {(one.kind, one.place): str(error) for one, error in repaired if error is not None}
    outcomes = [(one, "repaired") for one, error in repaired if error is None]
    for one in findings:
        outcomes.append((one, failures.get((one.kind, one.place), "--repair mends it" if one.mend else "")))
    return [{"kind": one.kind, "place": one.place, "text": one.text, "outcome": text} for one, text in outcomes]
