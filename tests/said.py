"""The sentences in the package's sources, with … where a value stands."""

import ast
import pathlib

import keras_effv2

PACKAGE = pathlib.Path(keras_effv2.__file__).parent


def sentences():
    """Every string of the sources; what an f-string fills in is …."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )
