"""The lab VM is what it should be."""

import os


def test_the_kernel_is_debians() -> None:
    assert os.uname().release.endswith("-amd64")
