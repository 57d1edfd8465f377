"""Writes the measured table into docs/models.md: python docs/tables.py, after benchmarks/models.py."""

import json
import pathlib
import re

DOCS = pathlib.Path(__file__).parent
BEGIN, END = "<!-- measured: python docs/tables.py -->\n", "<!-- end of measured -->"


def measured():
    """A row a checkpoint, the most accurate last; where it was measured below."""
    table = json.loads((DOCS / "models.json").read_text(encoding="utf-8"))
    lines = [
        "| model | weights | pixels | top 1 | ms, one core | MB | by |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in sorted(table["rows"], key=lambda row: row["top1"]):
        by = row["source"].split(",")[0]
        lines.append(
            f"| {row['model']} | `{row['weights']}` | {row['image_size']} | {row['top1']:.1f} % "
            f"| {row['milliseconds']:.0f} | {row['megabytes']:.0f} | {by} |"
        )
    where = f"{table['processor']}, {table['versions']}"
    return "\n".join(lines) + f"\n\nMeasured on one core of: {where}.\n"


def main():
    page = DOCS / "models.md"
    text = page.read_text(encoding="utf-8")
    inside = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    page.write_text(inside.sub(BEGIN + measured() + END, text), encoding="utf-8")


if __name__ == "__main__":
    main()
