"""Tables and figures of a report in LaTeX, with booktabs and graphicx, for a paper."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from experiments.reports import tables

HEAD = r"""% Needs \usepackage{booktabs}, \usepackage{graphicx} and \usepackage[T1]{fontenc}.
% Figures lie beside this file: \graphicspath{{FOLDER/}} names it, if yours is in another folder."""
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    tables.NONE: "--",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it.

    Examples:
        >>> print(escaped("sgd_50%:{a}&b^2"))
        sgd\_50\%:\{a\}\&b\textasciicircum{}2
    """
    return "".join(_ESCAPED.get(character, character) for character in text)


def table(
    caption: str,
    lines: Sequence[tuple[dict[str, str], bool]],
    hidden: Collection[str] = (),
    name: str = "Optimizer",
    judged: str = "Final IQM",
) -> str:
    r"""A table environment with one tabular.

    Args:
        caption: in plain text.
        lines: for each row its cells by column, and whether it is the best.
        hidden: columns that are left out. So are those in which nothing is known.
        name: the column with the rows' names, which are set in typewriter type.
        judged: the column that is set in bold for the best.

    Examples:
        >>> print(table("Catch, 8 seeds.", [({"Optimizer": "adam", "Final IQM": "0.50"}, True)]))
        \begin{table}
          \centering
          \caption{Catch, 8 seeds.}
          \begin{tabular}{lr}
            \toprule
            Optimizer & Final IQM \\
            \midrule
            \texttt{adam} & \textbf{0.50} \\
            \bottomrule
          \end{tabular}
        \end{table}
    """
    columns = [
        column
        for column in lines[0][0]
        if column not in hidden and any(cells[column] != tables.NONE for cells, _ in lines)
    ]
    rows = [
        [_cell(cells[column], column == name, best and column == judged) for column in columns]
        for cells, best in lines
    ]
    body = "\n".join(f"    {' & '.join(row)} \\\\" for row in rows)
    return (
        "\\begin{table}\n"
        "  \\centering\n"
        f"  \\caption{{{escaped(caption)}}}\n"
        f"  \\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}\n"
        "    \\toprule\n"
        f"    {' & '.join(map(escaped, columns))} \\\\\n"
        "    \\midrule\n"
        f"{body}\n"
        "    \\bottomrule\n"
        "  \\end{tabular}\n"
        "\\end{table}"
    )


def figure(file: str, caption: str) -> str:
    """A figure environment as wide as the text; the caption is plain text."""
    return (
        "\\begin{figure}\n"
        "  \\centering\n"
        f"  \\includegraphics[width=\\linewidth]{{{file}}}\n"
        f"  \\caption{{{escaped(caption)}}}\n"
        "\\end{figure}"
    )


def document(parts: Sequence[str]) -> bytes:
    """A file of tables and figures, to be read with LaTeX's input command."""
    return ("\n\n".join([HEAD, *parts]) + "\n").encode()


def _cell(text: str, is_name: bool, is_best: bool) -> str:
    shown = escaped(re.sub(r"\s+", " ", text))
    if is_name:
        return f"\\texttt{{{shown}}}"
    return f"\\textbf{{{shown}}}" if is_best else shown
