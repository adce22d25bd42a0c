"""The libvirtds of several hosts trust each other with the certificates of the daemons there, as on a real node."""

from pathlib import Path

from lab.commands import wait_for
from lab.hosts import Host

# A client of libvirt finds its certificate in /etc/pki alone, which this machine may not have: an overlay does.
_SCRIPT = r"""
set -e
pki=$1 libvirt=$2 hosts=$3
if [[ ! -d /etc/pki/libvirt/private ]]; then
  mkdir -p /run/overlay
  mount -t tmpfs overlay /run/overlay
  mkdir /run/overlay/upper /run/overlay/work
  mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/overlay/upper,workdir=/run/overlay/work /etc
  mount --bind "$libvirt" /etc/libvirt
  mount --bind "$hosts" /etc/hosts
  mkdir -p /etc/pki/CA /etc/pki/libvirt/private
fi
cp "$pki/certs/cacert.pem" /etc/pki/CA/
for name in client server; do
  cp "$pki/certs/vdsmcert.pem" /etc/pki/libvirt/${name}cert.pem
  cp "$pki/keys/vdsmkey.pem" /etc/pki/libvirt/private/${name}key.pem
done
sed -i 's/^listen_tls = .*/listen_tls = 1/' /etc/libvirt/libvirtd.conf
sed -i '/^migrate_tls_x509/d' /etc/libvirt/qemu.conf
printf '%s\n' "migrate_tls_x509_cert_dir = \"$pki/libvirt-migrate\"" 'migrate_tls_x509_verify = 0' \
  >>/etc/libvirt/qemu.conf
"""


def serve_tls(host: Host, pki: Path, names: Path) -> None:
    """Start the host's libvirtd anew, with TLS; `pki` as the host sees it, `names` the file of all hosts' names."""
    host.run("bash", "-c", _SCRIPT, "serve", pki, host.folder / "etc", names)
    host.libvirtd.stop()
    host.libvirtd.start()
    wait_for(lambda: host.run("virsh", "-q", "list") is not None, f"libvirtd of {host.name} answers")


def forget_tls(host: Host) -> None:
    """Before a host that is off starts again: its certificates were in memory, and libvirtd would not come up."""
    file = host.folder / "etc/libvirtd.conf"
    file.write_text(file.read_text().replace("listen_tls = 1", "listen_tls = 0"))
