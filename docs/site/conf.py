"""How Sphinx makes the site out of the pages that `dits_lib/commands/site.py` puts together.

Sphinx with myst-nb and not Jupyter Book 2, which needs node and asks the network for its theme: all
here are Python packages, and a page that they wrote loads nothing from elsewhere. For the same
reason equations are MathML, which browsers draw by themselves, and not MathJax.
"""

import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

HERE = Path(__file__).parent

project = "DITS"
extensions = ["myst_nb"]
root_doc = "index"
language = "en"

nb_execution_mode = "off"  # the notebooks stand as they ran
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_digits = False
myst_dmath_allow_space = False
myst_heading_anchors = 6

html_theme = "furo"
html_title = "DITS"
html_static_path = [str(HERE / "static")]
html_css_files = ["site.css"]
html_favicon = str(HERE / "icon.svg")
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False


def write_inline(writer, node):
    """An equation within a line."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def write_block(writer, node):
    """An equation of its own line or lines."""
    equation = convert(node.astext().replace("\n", " "), display="block")
    writer.body.append(f'<div class="equation">{equation}</div>\n')
    raise nodes.SkipNode


def note_anchors(app, doctree):
    """Links may point to `<a id="...">` of a page as to its headings."""
    known = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for raw in doctree.findall(nodes.raw):
        for name in re.findall(r'<a id="([^"]+)">', raw.astext()):
            known.setdefault(name, (raw.line, name, name))


def name_profile(app, pagename, templatename, context, doctree):
    """Notebooks of several profiles have one title: that of the window names the profile."""
    found = re.match(r"results/([^/]+)/notebooks/(?!index$)", pagename)
    if found:
        context["title"] += f" ({found[1]})"


def setup(app):
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
    app.connect("doctree-read", note_anchors)
    app.connect("html-page-context", name_profile)
