"""A kernel of 102 bytes: says its command line and its initrd on the serial port, and turns off when asked to by ACPI.

For qemu's own boot protocol (Multiboot), on any machine type. Until it is asked it polls, which costs a processor.
"""

_CODE = bytes.fromhex(
    "02b0ad1b 00000100 fe4f51e4"  # Multiboot header: magic, flags (addresses follow), checksum
    "00001000 00001000 00000000 00000000 20001000"  # header and load address, end of file, no bss, entry
    "66ba0206 66b80001 66ef"  # enable the power button (PM1_EN): from now on no press is lost
    "66baf803 8b7310 ac 84c0 7403 ee ebf8"  # dx = COM1; every byte of the command line, to its zero
    "b00a ee 8b4b14 e30f"  # a line feed; without modules: on
    "8b4318 8b30 8b4804 29f1 f36e b00a ee"  # the first module from start to end, a line feed
    "66ba0006 66ed f6c401 74f9"  # wait for the button (PM1_STS)
    "66ba0406 66b80020 66ef f4"  # sleep state 5 (PM1_CNT)
)


def make_kernel() -> bytes:
    """The kernel; its first line is the command line after the kernel's path, its second one the initrd."""
    return _CODE
