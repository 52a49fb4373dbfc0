"""Tables as text."""

from collections.abc import Sequence


def table_lines(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], str]:
    """Return the lines of a table, header first, and the rule that divides them."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    return lines, "  ".join("-" * width for width in widths)
