"""The option of photographs in archives and tables."""

import argparse


def add_column_argument(group: argparse._ActionsContainer) -> None:
    """Add the option of what in an archive or a table is the photograph."""
    group.add_argument(
        "--column", metavar="NAME",
        help="of Parquet tables, the column of the images, and of tars, the ending of the photographs (jpg, "
        "rgb.png); default: the only one",
    )  # fmt: skip
