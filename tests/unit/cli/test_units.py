"""Figures as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.cli.units import format_duration, format_figure, format_label, format_size


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1 MiB"),
        (107374182400, "100 GiB"),
        (-2048, "-2 KiB"),
        (1024**6, "1024 PiB"),
    ],
)
def test_sizes_have_the_largest_unit_that_fits(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (59, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (187200, "2 d 4 h"),
        (-3600, "-1 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("memory_mib", 256, "256 MiB"),
        ("memory_mib", "2048", "2 GiB"),
        ("balloon_kib", "262144", "256 MiB"),
        ("total_bytes", "107374182400", "100 GiB"),
        ("read_bytes_per_s", "0.0", "0 B/s"),
        ("swap_in_per_s", 3, "3 /s"),
        ("cpu_user_percent", "12.50", "12.5 %"),
        ("speed_mbps", 1000, "1000 Mbit/s"),
        ("elapsed_s", "200", "3 min 20 s"),
        ("cpus", 4, "4"),
        ("vm_id", "123", "123"),
        ("serial", "007", "007"),
        ("total_bytes", "unknown", "unknown"),
        ("delay_s", "inf", "inf"),
        ("created_s", 10**18, "11574074074074 d 1 h"),
    ],
)
def test_the_name_of_a_figure_tells_its_unit(name: str, value: int | str, text: str) -> None:
    assert format_figure(name, value) == text


def test_seconds_since_the_epoch_are_a_date() -> None:
    assert format_figure("created_s", "1720000000").startswith("2024-07-0")


def test_labels_are_words_without_the_unit() -> None:
    assert format_label("memory_free_mib") == "memory free"
    assert format_label("status") == "status"


@given(
    name=st.sampled_from(["x", "x_bytes", "x_s", "x_ms", "x_percent"]), value=st.integers() | st.floats() | st.text()
)
def test_any_value_can_be_printed(name: str, value: int | float | str) -> None:
    assert isinstance(format_figure(name, value), str)
