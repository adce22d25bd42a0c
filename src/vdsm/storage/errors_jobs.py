"""More of the storage family of failures: what tasks, jobs, leases and bitmaps may meet (facts: storage §12.2)."""

from vdsm.core.errors import NodeError


class VolumeNonWritable(NodeError):
    """A template or an inner layer is not resized."""

    code, number, http, text = "volume-non-writable", 213, 409, "Volume cannot be accessed to write: ({volume_id!r},)"
    volume_id: str


class VolumeResizeValueError(NodeError):
    """A volume does not become smaller."""

    code, number, http = "volume-resize-value-error", 232, 400
    text = "Incorrect size value for volume resize: ({volume_id!r}, 'asked {wanted_bytes}, has {size_bytes}')"
    volume_id: str
    wanted_bytes: int
    size_bytes: int


class OverwriteImageError(NodeError):
    """The image is there; only with force it is replaced."""

    code, number, http, text = "overwrite-image-error", 265, 409, "Cannot overwrite image: ({image_id!r},)"
    image_id: str


class ImageDoesNotExistInSD(NodeError):
    """The domain does not have the image."""

    code, number, http = "image-does-not-exist-in-sd", 268, 404
    text = "Image does not exist in domain: ('image={image_id}, domain={domain_id}',)"
    image_id: str
    domain_id: str


class SanlockLvbError(NodeError):
    """What is stored in a lease could not be read or written."""

    code, number, text = "sanlock-lvb-error", 703, "Sanlock LVB error: ({reason!r},)"
    reason: str


class GenerationMismatch(NodeError):
    """The job or volume went on since the caller looked; nothing was changed."""

    code, number, http = "generation-mismatch", 911, 409
    text = "The provided generation ({wanted}) does not match the actual generation ({actual})"
    wanted: int | None
    actual: int


class JobStatusMismatch(NodeError):
    """The job went on since the caller looked."""

    code, number, http = "job-status-mismatch", 912, 409
    text = "The provided job status ({wanted!r}) does not match the actual job status ({actual!r})"
    wanted: str
    actual: str


class NoSuchLease(NodeError):
    """The domain has no external lease of that id."""

    code, number, http, text = "no-such-lease", 936, 404, "No such lease: ({lease_id!r},)"
    lease_id: str


class VolumeIsNotInChain(NodeError):
    """The image's chain does not have the volume."""

    code, number, http = "volume-is-not-in-chain", 920, 409
    text = "Volume is not in chain: ({image_id!r}, {volume_id!r})"
    image_id: str
    volume_id: str


class WrongParentVolume(NodeError):
    """The volume is based on another one."""

    code, number, http = "wrong-parent-volume", 921, 409
    text = "Volume has a different parent: (volume {volume_id!r}, parent {parent_id!r})"
    volume_id: str
    parent_id: str


class UnexpectedVolumeState(NodeError):
    """The volume is not in the state that the operation begins with."""

    code, number, http = "unexpected-volume-state", 922, 409
    text = "Volume is in an unexpected state: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class AddBitmapError(NodeError):
    """The bitmap could not be added."""

    code, number, http, text = "add-bitmap-error", 1620, 409, "Failed to add bitmap: ({bitmap!r}, {reason!r})"
    bitmap: str
    reason: str


class MergeBitmapError(NodeError):
    """The bitmap could not be merged into the volume below."""

    code, number, text = "merge-bitmap-error", 1621, "Failed to merge bitmap: ({bitmap!r}, {reason!r})"
    bitmap: str
    reason: str


class RemoveBitmapError(NodeError):
    """The bitmap could not be removed."""

    code, number, text = "remove-bitmap-error", 1622, "Failed to remove bitmap: ({bitmap!r}, {reason!r})"
    bitmap: str
    reason: str
