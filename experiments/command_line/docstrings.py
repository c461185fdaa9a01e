"""What docstrings say of arguments and attributes, for lists on the command line."""

from __future__ import annotations

import inspect
import re


def described(documented: object) -> dict[str, str]:
    """What a docstring says of each argument or attribute, on one line.

    Args:
        documented: a function or class with a section `Args:` or `Attributes:`.

    Returns:
        Texts by name, without a full stop at the end. What has no such section gives none.

    Examples:
        >>> described(described)["documented"]
        'a function or class with a section `Args:` or `Attributes:`'
    """
    lines = (inspect.getdoc(documented) or "").splitlines()
    start = next((i for i, line in enumerate(lines) if line in ("Args:", "Attributes:")), None)
    if start is None:
        return {}
    texts: dict[str, list[str]] = {}
    entry = ""
    indent = ""
    for line in lines[start + 1 :]:
        if line and not line.startswith(" "):
            break
        indent = indent or line[: len(line) - len(line.lstrip())]
        if match := re.match(rf"{indent}(\w+)(?:\s*\([^)]*\))?:\s*(.*)$", line):
            entry, text = match.groups()
            texts[entry] = [text]
        elif entry:
            texts[entry].append(line.strip())
    return {name: _plain(" ".join(filter(None, parts))) for name, parts in texts.items()}


def _plain(text: str) -> str:
    """Without the marks of reStructuredText that say nothing in a terminal."""
    text = re.sub(r":\w+:`~?([^`<]*)(?: <[^`]*>)?`", r"\1", text).replace("``", "`")
    return text.removesuffix(".")
