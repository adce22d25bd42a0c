"""Where a device sits and what it is called, shared by all kinds of devices."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import Address


def build(address: Address | None, alias: str | None = None, boot_order: int | None = None) -> list[Element]:
    """`<boot>`, `<alias>` (libvirt takes only those of users, `ua-…`) and `<address>`, as far as given."""
    made = [] if boot_order is None else [element("boot", order=boot_order)]
    if alias is not None and alias.startswith("ua-"):
        made.append(element("alias", name=alias))
    if address is not None:
        made.append(element("address", type=address.type, **address.parts))
    return made
