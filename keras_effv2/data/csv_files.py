"""Labels in a CSV file."""

import csv
import io
import os
import re
import urllib.parse

from keras_effv2 import files, needs
from keras_effv2.data.frames import load_frame


def load_csv(rest, validation, seed, strict):
    """A CSV file, `FILE` or `FILE?image=COLUMN&label=COLUMN&split=COLUMN`."""
    with needs.naming("A table of labels"):
        import pandas

    path, _, query = rest.partition("?")
    columns = _columns(query, rest)
    check_file(path)
    head, rows = _cells(path)
    frame = pandas.DataFrame(list(rows.values()), list(rows), head, dtype=object)
    frame = frame.loc[:, frame.columns != ""]  # such as an index that pandas wrote with it
    return load_frame(
        frame, validation, seed, strict, f"csv:{rest}", os.path.dirname(path), columns
    )


def check_file(path):
    """Refuses a path at which there is no table, or a folder."""
    place = files.place(path, "A table")
    if place.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder, not a table. Give a CSV file, or folder:{path}."
        )
    if not place.exists():
        raise FileNotFoundError(f"There is no table {path}. Check the path.")


def _cells(path):
    """Names of the columns, and number of a line -> its cells: texts, so 007 and NA stay what they are."""
    with files.open_regular(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8, see its byte {error.start + 1}. Save the table as CSV in "
            "UTF-8."
        ) from None
    separator = _separator(text)
    table = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    rows = {}
    try:
        for row in table:
            if any(map(str.strip, row)):
                rows[table.line_num] = row
    except csv.Error as error:
        raise ValueError(
            f"{path}, row {table.line_num}, cannot be read as a table: {error}. A quote opens a cell "
            "there and does not close it, or closes it too early: write it twice, or quote the cell."
        ) from None
    head = [name.strip() for name in rows.pop(min(rows, default=0), ())]
    for line, row in rows.items():
        if len(row) != len(head):
            raise ValueError(
                f"{path}, row {line}: {len(row)} cell(s) where the head has {len(head)} "
                f"({', '.join(head[:12])}). Give every column a name, and quote a cell that has "
                f"{separator!r} in it."
            )
    return head, rows


def _separator(text):
    """What stands most often in the first line, outside of quotes."""
    head = re.sub(r'"[^"]*"', "", next(filter(str.strip, text.splitlines()), ""))
    found = max(",;\t|", key=head.count)
    return found if found in head else " "


def _columns(query, rest):
    """Role -> names of columns."""
    complaint = (
        "After a table's ? stand image=, label= or labels=, and split=, each with a name of a column, "
        f"joined by &. Received: {rest!r}."
    )
    return settings_of(query, ("image", "label", "labels", "split"), complaint)


def settings_of(query, known, complaint):
    """Key -> value, out of `image=A&labels=B,C` after a description's question mark.

    Args:
        query: What stands there.
        known: Keys that may.
        complaint: Text of the `ValueError` where something else does.
    """
    found = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in known or not value:
            raise ValueError(complaint)
        found[key] = urllib.parse.unquote(value)
    return found
