"""What a run found: a table for people and JSON for programs; measuring is left to the modules beside this one."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: ours, the rival's beside it, and the floor of the design: on the value, or on the ratio."""

    name: str
    value: float
    unit: str
    rival: str = ""
    rival_value: float | None = None
    floor: str = ""
    holds: bool | None = None

    @property
    def ratio(self) -> float | None:
        """Ours to the rival's."""
        return self.value / self.rival_value if self.rival_value else None


def at_least(bound: float, value: float, unit: str) -> tuple[str, bool]:
    """A floor from below, and whether it holds."""
    return f">= {bound:g} {unit}", value >= bound


def at_most(bound: float, value: float, unit: str) -> tuple[str, bool]:
    """A floor from above, and whether it holds."""
    return f"<= {bound:g} {unit}", value <= bound


def print_table(figures: list[Figure]) -> None:
    """The figures as people read them."""
    table = Table(title="vdsm bench")
    for column in ("figure", "ours", "rival", "theirs", "ratio", "floor", "holds"):
        table.add_column(column, justify="left" if column in ("figure", "rival", "floor") else "right")
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.value:,.4g} {figure.unit}",
            figure.rival,
            "" if figure.rival_value is None else f"{figure.rival_value:,.4g} {figure.unit}",
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.floor,
            {True: "yes", False: "NO", None: ""}[figure.holds],
        )
    Console(width=160).print(table)


def write_json(figures: list[Figure]) -> Path:
    """Write the figures into bench/results and tell where."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{time.strftime('%Y-%m-%dT%H%M%S')}.json"
    document = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "figures": [{**asdict(figure), "ratio": figure.ratio} for figure in figures],
    }
    file.write_text(json.dumps(document, indent=1) + "\n")
    return file
