"""Sphinx builds the documentation with this: `make docs`, without network."""

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import jax
import latex2mathml.converter
import optax
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

project = "RL-Optim"
author = "the authors of RL-Optim"
release = importlib.metadata.version("rl-optim")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
# `results` is a link to experiments/results, whose pages are part of the documentation.
_RESULTS = Path(__file__).resolve().parents[1] / "experiments" / "results"
exclude_patterns = ["_build", "results/**/summary.md"]

default_role = "literal"  # docstrings have single backticks
toc_object_entries = False
maximum_signature_line_length = 90

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"RL-Optim {release}"
html_static_path = ["_static"]
html_css_files = ["equations.css"]
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"

# What the source calls the longest types, the longest first.
_TYPES = {
    stringify_annotation(of, "smart"): name
    for of, name in (
        (optax.ScalarOrSchedule, "optax.ScalarOrSchedule"),
        (optax.Params, "optax.Params"),
        (jax.typing.ArrayLike, "jax.typing.ArrayLike"),
    )
}


def _signature(
    app: Sphinx, what: str, name: str, of: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Spells types as the source does."""
    if not signature:
        return None  # as it is
    for long, short in _TYPES.items():
        signature = signature.replace(long, f"~{short}")
        returns = (returns or "").replace(long, f"~{short}")
    return signature, returns


def _title(app: Sphinx, page: str, source: list[str]) -> None:
    """Gives a table that is alone in its file a title."""
    if page.startswith("results/") and not source[0].startswith("#"):
        source[0] = f"# All numbers of {page.split('/')[-2]}\n\n{source[0]}"


def _links(app: Sphinx, page: nodes.document) -> None:
    """Leads links to files of experiments/results to the pages that are made of them."""
    for link in page.findall(addnodes.pending_xref):
        target = Path(link["reftarget"])
        if link.get("refdomain") == "doc" and target.is_relative_to(_RESULTS):
            link["reftarget"] = (Path("results") / target.relative_to(_RESULTS)).as_posix()


def _mathml(latex: str, display: str) -> str:
    upright = re.sub(r"\\operatorname{(.*?)}", r"\\text{\1}", latex).replace(r"\_", "_")
    return latex2mathml.converter.convert(upright, display=display)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _displayed(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{_mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds equations as MathML, which browsers draw themselves, and links to results."""
    app.add_html_math_renderer("mathml", (_inline, None), (_displayed, None))
    app.connect("autodoc-process-signature", _signature)
    app.connect("source-read", _title)
    app.connect("doctree-read", _links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
