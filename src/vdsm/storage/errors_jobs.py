"""More of the storage family of failures: what tasks, jobs, leases and bitmaps may meet (facts: storage §12.2)."""

from vdsm.core.errors import Failure, NodeError
from vdsm.storage.errors import OfVolume, VolumeFailed


class VolumeNonWritable(OfVolume, number=213, http=409, text="Volume cannot be accessed to write:"):
    """A template or an inner layer is not resized."""


class VolumeResizeValueError(NodeError, number=232, http=400):
    """A volume does not become smaller."""

    text = "Incorrect size value for volume resize: ({volume_id!r}, 'asked {wanted_bytes}, has {size_bytes}')"
    volume_id: str
    wanted_bytes: int
    size_bytes: int


class OverwriteImageError(NodeError, number=265, http=409, text="Cannot overwrite image:"):
    """The image is there; only with force it is replaced."""

    image_id: str


class MoveTemplateImageError(NodeError, number=266, http=409, text="Can't move template image:"):
    """A template that other images use stays where they are."""

    image_id: str


class ImageDoesNotExistInSD(NodeError, number=268, http=404):
    """The domain does not have the image."""

    text = "Image does not exist in domain: ('image={image_id}, domain={domain_id}',)"
    image_id: str
    domain_id: str


class SanlockLvbError(Failure, number=703, text="Sanlock LVB error:"):
    """What is stored in a lease could not be read or written."""


class GenerationMismatch(NodeError, number=911, http=409):
    """The job or volume went on since the caller looked; nothing was changed."""

    text = "The provided generation ({wanted}) does not match the actual generation ({actual})"
    wanted: int | None
    actual: int


class JobStatusMismatch(NodeError, number=912, http=409):
    """The job went on since the caller looked."""

    text = "The provided job status ({wanted!r}) does not match the actual job status ({actual!r})"
    wanted: str
    actual: str


class NoSuchLease(NodeError, number=936, http=404, text="No such lease:"):
    """The domain has no external lease of that id."""

    lease_id: str


class VolumeIsNotInChain(NodeError, number=920, http=409, text="Volume is not in chain:"):
    """The image's chain does not have the volume."""

    image_id: str
    volume_id: str


class WrongParentVolume(NodeError, number=921, http=409):
    """The volume is based on another one."""

    text = "Volume has a different parent: (volume {volume_id!r}, parent {parent_id!r})"
    volume_id: str
    parent_id: str


class UnexpectedVolumeState(VolumeFailed, number=922, http=409, text="Volume is in an unexpected state:"):
    """The volume is not in the state that the operation begins with."""


class InvalidBitmapChain(NodeError, number=946, http=409, text="Bitmap chain is invalid:"):
    """A layer lacks its part of the bitmap, or that is of no use."""

    bitmap: str


class BitmapDoesNotExist(NodeError, number=947, http=404, text="Bitmap does not exist:"):
    """No layer has the bitmap."""

    bitmap: str


class AddBitmapError(NodeError, number=1620, http=409, text="Failed to add bitmap:"):
    """The bitmap could not be added."""

    bitmap: str
    reason: str


class MergeBitmapError(NodeError, number=1621, text="Failed to merge bitmap:"):
    """The bitmap could not be merged into the volume below."""

    bitmap: str
    reason: str


class RemoveBitmapError(NodeError, number=1622, text="Failed to remove bitmap:"):
    """The bitmap could not be removed."""

    bitmap: str
    reason: str
