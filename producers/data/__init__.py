"""Real data that ships with Headrace (ATTRIBUTION.md says whose it is)."""

from pathlib import Path


def online_retail() -> Path:
    """The bundled shop file: 541,909 order lines of a year, gzipped CSV."""
    return Path(__file__).with_name("online_retail.csv.gz")
