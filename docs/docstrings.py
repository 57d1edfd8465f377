"""For mkdocstrings: the example that ends a docstring is code, whether it is a doctest or indented."""

import inspect

import griffe


class Examples(griffe.Extension):
    def on_object(self, *, obj, **_):
        if obj.docstring is None or "\nExample:\n" not in obj.docstring.value:
            return
        text, _, code = obj.docstring.value.partition("\nExample:\n")
        code = inspect.cleandoc(code)
        obj.docstring.value = f"{text}\n**Example**\n\n```python\n{code}\n```\n"
