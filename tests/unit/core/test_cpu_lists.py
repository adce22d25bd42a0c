"""Lists of processors, of the kernel and of strangers."""

import pytest

from vdsm.core.cpu_lists import MOST_CPUS, parse_cpu_list


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("0-1,6-7\n", (0, 1, 6, 7)), ("8,2,4-5", (2, 4, 5, 8)), ("", ()), ("\n", ())],
)
def test_the_kernels_list_format(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["a", "0-x", "-3", "1--2", f"0-{MOST_CPUS}", "0-" + "9" * 5000, "0;reboot", "^1"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_cpu_list(text)
