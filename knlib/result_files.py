"""Tables of long runs as files: rounded, so that what is read again is what was written, and named by their configuration."""

import hashlib
import json

import pandas as pd

DIGITS = 5  # significant digits of the stored rows


def config_hash(config: dict) -> str:
    """16 hex digits of a configuration: canonical JSON, without paths and times.

    Example
    -------
    >>> config_hash({"cell": "A1"})
    'e83343eeea6fd40b'
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Floats to 5 significant digits, so that a file read again holds the same numbers."""
    table = table.copy()
    for column in table.select_dtypes("floating"):
        table[column] = [float(f"{value:.{DIGITS}g}") for value in table[column]]
    return table


def to_csv(table: pd.DataFrame) -> str:
    """A table as CSV, without its index."""
    return table.to_csv(index=False, lineterminator="\n")


def read_table(source) -> pd.DataFrame:
    """A table of `to_csv`, from a path or file; an empty file is an empty table."""
    try:
        # Only empty cells are missing values: "NA" and "None" may be names.
        return pd.read_csv(source, keep_default_na=False, na_values=[""], float_precision="round_trip")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
