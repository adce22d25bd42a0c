"""Serving prepared images over NBD, for backups and transfers (facts: storage §15.3)."""

import logging
import shutil

from msgspec import Struct

from vdsm.core.undo import Undo
from vdsm.storage import checks, durable, errors, locks
from vdsm.storage.domain import Domains
from vdsm.storage.errors_jobs import BitmapDoesNotExist, InvalidBitmapChain
from vdsm.storage.images.formatting import NEW_COMPAT
from vdsm.storage.images.operation import Operations, get_layer, list_bitmaps
from vdsm.storage.layout import Layout
from vdsm.storage.locks import Locks
from vdsm.storage.model import NbdConfig, VolumeFormat, VolumeRole
from vdsm.storage.pools.pool import Pools
from vdsm.storage.ports import UNWATCHED, Layer, NbdExport, NbdServers, QemuImg, QemuImgFailed

log = logging.getLogger(__name__)


class Exports(Struct, eq=False):
    """NBD servers of this host by ids of their callers; they go on when this process ends."""

    _domains: Domains
    _pools: Pools
    _operations: Operations
    _locks: Locks
    _qemu_img: QemuImg
    _servers: NbdServers | None
    _layout: Layout

    def start(self, server_id: str, config: NbdConfig) -> str:
        """Serve a volume and tell the address. Raises 313, 219 for a template that is to be written, 2009, 946, 947."""
        checks.check_real_ids(server_id=server_id, img_id=config.image_id, vol_id=config.volume_id)
        if not self._pools.list_connected():
            raise errors.StoragePoolNotConnected
        if config.bitmap and not (config.read_only and config.backing_chain):
            raise errors.UnsupportedOperation("a bitmap is served read-only, with the whole chain")
        with self._locks.hold(locks.nbd_server(server_id)):
            socket = self._layout.get_nbd_socket(server_id)
            if self._servers is None or self._servers.is_running(socket):
                raise errors.UnsupportedOperation(f"NBD server {server_id} cannot be started, or runs already")
            domain = self._domains.get_with_images(config.domain_id)
            chain = self._operations.open_chain(domain, config.image_id, config.volume_id)
            if chain[0][1].role is VolumeRole.SHARED and not config.read_only:
                raise errors.SharedVolumeNonWritable(config.volume_id)
            layers = [get_layer(domain, config.image_id, *one) for one in chain]
            with Undo() as undo, errors.qemu_failing_as(QemuImgFailed), errors.io_failing_as(QemuImgFailed):
                undo.push(self._remove_overlay, server_id)
                layers = self._add_overlay(server_id, layers, config) if config.bitmap else layers
                served = tuple(layers if config.backing_chain else layers[:1])
                kind = (config.read_only, config.discard, config.detect_zeroes, config.bitmap)
                self._servers.start(socket, NbdExport(served, *kind))
                undo.forget()
        log.info("Serving %s of image %s by NBD server %s", config.volume_id, config.image_id, server_id)
        return f"nbd:unix:{socket}"

    def stop(self, server_id: str) -> None:
        """End a server; one that is not there is success."""
        checks.check_real_ids(server_id=server_id)
        with self._locks.hold(locks.nbd_server(server_id)):
            if self._servers is not None:
                self._servers.stop(self._layout.get_nbd_socket(server_id))
            self._remove_overlay(server_id)

    def _add_overlay(self, server_id: str, layers: list[Layer], config: NbdConfig) -> list[Layer]:
        """The layers; below one that has all of the bitmap where several layers have a part of it."""
        bitmap = config.bitmap or ""
        if layers[0].format != VolumeFormat.COW.qemu:
            raise errors.UnsupportedOperation("a bitmap needs the COW format")
        found = [{one.name: one for one in list_bitmaps(self._qemu_img, layer)}.get(bitmap) for layer in layers]
        having = [layer for layer, one in zip(layers, found, strict=True) if one is not None]
        if not having:
            raise BitmapDoesNotExist(bitmap)
        if having != layers[: len(having)] or not all(one.is_valid for one in found if one is not None):
            raise InvalidBitmapChain(bitmap)
        if len(having) == 1:
            return layers
        self._remove_overlay(server_id)  # of a start that was killed
        path = self._layout.get_transient_disk(server_id)
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        durable.create_file(path, 0o660, owner=lambda _: None)
        size_bytes = self._qemu_img.get_virtual_size(layers[0].path, layers[0].format)
        backing = {"backing": str(layers[0].path), "backing_format": layers[0].format}
        overlay = Layer(path, VolumeFormat.COW.qemu)
        self._qemu_img.create(path, overlay.format, size_bytes, compat=NEW_COMPAT, **backing)
        self._qemu_img.add_bitmap(path, bitmap, found[0].granularity_bytes if found[0] else None)
        for layer in having:
            self._qemu_img.merge_bitmap(layer, path, bitmap, UNWATCHED)
        return [overlay, *layers]

    def _remove_overlay(self, server_id: str) -> None:
        shutil.rmtree(self._layout.get_transient_disk(server_id).parent, ignore_errors=True)
