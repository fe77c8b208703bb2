"""Sphinx configuration. Pages with code cells are notebooks, executed when they are read."""

import contextlib
import importlib
import inspect
import io
import logging
import os
import re

from docutils import nodes
from docutils.statemachine import StringList
from docutils.utils import new_document
from jupyter_client.manager import KernelManager
from latex2mathml.converter import convert
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger

import flossing
from flossing_lab.runs.process import cache_folder

project = "flossing"
author = "The flossing developers"
copyright = author
version = release = flossing.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_design"]
html_math_renderer = "mathml"
exclude_patterns = ["_build", "jupyter_execute"]

html_theme = "furo"
html_title = f"flossing {release}"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False

myst_enable_extensions = ["dollarmath", "colon_fence"]

# Pages compile many of the same programs, each in a process of its own.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Not "cache": a cached notebook would keep its old numbers after a change of the library.
nb_execution_mode = "force"
# Pages that are built without being executed, for a quick look; none by default.
nb_execution_excludepatterns = os.environ.get("DOCS_UNEXECUTED", "").split()
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_ipywidgets_js = {}

# Docstrings give the shapes and meanings of the arguments; the annotations would only hide them.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88

# A build that goes well says nothing: ipykernel warns of a link that is not encrypted, traitlets reports each notebook.
KernelManager.transport_encryption.default_value = "auto"
logging.getLogger("traitlets").setLevel(logging.WARNING)


class MarkdownDocstring(SphinxDirective):
    """The content, read as Markdown."""

    has_content = True

    def run(self):
        document = new_document(self.state.document.current_source or "", self.state.document.settings)
        MystParser().parse("\n".join(self.content), document)
        return document.children


class CommandHelp(SphinxDirective):
    """What `flossing COMMAND --help` prints."""

    has_content = False
    optional_arguments = 2

    def run(self):
        from flossing_lab.cli import main

        text, columns = io.StringIO(), os.environ.get("COLUMNS")
        os.environ["COLUMNS"] = "100"
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([*self.arguments, "--help"])
        if f"usage: {' '.join(['flossing', *self.arguments])} " not in text.getvalue():
            raise self.error(f"flossing {' '.join(self.arguments)} printed no help of its own")
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())
        return [nodes.literal_block(plain, plain, language="text")]


class Summary(MarkdownDocstring):
    """A table of public names, one on each line of the content, with the first line of their documentation."""

    def run(self):
        rows = ["| name | purpose |", "|---|---|"]
        for path in self.content:
            module, _, name = path.rpartition(".")
            described = inspect.getdoc(getattr(importlib.import_module(module), name)).partition("\n")[0]
            rows.append(f"| {{any}}`{path.partition('.')[2]} <{path}>` | {with_links(described)} |")
        self.content = StringList(rows)
        return super().run()


class Entries(MarkdownDocstring):
    """A table of the fields of a class of the laboratory: name, default, meaning; of all, or of those named.

    The argument is `MODULE CLASS [FIELD ...]`.
    """

    has_content = False
    required_arguments, optional_arguments = 2, 9

    def run(self):
        fields = getattr(importlib.import_module(self.arguments[0]), self.arguments[1]).model_fields
        if named := self.arguments[2:]:
            fields = {name: fields[name] for name in named}
        rows = ["| entry | default | meaning |", "|---|---|---|"]
        for name, field in fields.items():
            default = "" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
            meaning = " ".join((field.description or "").split())
            rows.append(f"| `{name}` | {default} | {meaning} |")
        self.content = StringList(rows)
        return super().run()


def inline_formula(self, node):
    """A formula as MathML, which browsers draw without a script and without a network."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def displayed_formula(self, node):
    """The same on a line of its own."""
    self.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def with_links(text):
    """Docstrings in Markdown have [`name`][] for a link into the reference."""
    text = re.sub(r"\[`(?:flossing\.)?([\w.]+)`\]\[\]", r"{any}`\1 <flossing.\1>`", text)
    return re.sub(r"\[`([\w.]+)`\]\[(flossing\.[\w.]+)\]", r"{any}`\1 <\2>`", text)


def wrap_docstring(app, what, name, obj, options, lines):
    """Autodoc takes docstrings for reST; ours are Markdown."""
    text = with_links("\n".join(lines))
    lines[:] = [".. markdown-docstring::", "", *(f"   {line}" for line in text.split("\n")), ""]


def name_functions(app, what, name, obj, options, signature, returns):
    """A function that is a default value, by its name alone."""
    return signature and re.sub(r"<function (\w+)>", r"\1", signature), returns


def warn_of_undocumented(app, env):
    """The public names and the reference must not drift apart."""
    documented = env.get_domain("py").objects
    for name in flossing.__all__:
        if name != "__version__" and f"flossing.{name}" not in documented:
            getLogger(__name__).warning("flossing.%s is public and not in the reference", name)


def setup(app):
    app.add_directive("markdown-docstring", MarkdownDocstring)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("entries", Entries)
    app.add_directive("summary", Summary)
    app.add_html_math_renderer("mathml", (inline_formula, None), (displayed_formula, None))
    app.connect("autodoc-process-docstring", wrap_docstring)
    app.connect("autodoc-process-signature", name_functions)
    app.connect("env-check-consistency", warn_of_undocumented)
