"""The API reference: `python -m sphinx -W -b html docs/api docs/api/_build`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

project = "cml_jax"
author = "the cml_jax authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1240px", "description": "Gradient-based meta-learning in JAX"}
html_copy_source = html_show_copyright = False
highlight_language = "none"  # of equations; examples with >>> are Python all the same
default_role = "code"  # `name` in docstrings is code
maximum_signature_line_length = 80  # longer ones have a line for each parameter
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

_EQUATION = " " * 4


def equations(app, what, name, obj, options, lines):
    """Makes indented paragraphs of a docstring, which are equations, literal blocks.

    Sections such as "Args:" are left to napoleon, which reads the docstring after this.
    """
    found, header, in_equation = [], False, False
    for i, line in enumerate(lines):
        if line and not line.startswith(" "):
            header = line.endswith(":") and line[:-1].isalpha()
            in_equation = False
        elif line.startswith(_EQUATION) and not header and not in_equation:
            if i and not lines[i - 1]:
                found += ["::", ""]
                in_equation = True
        found.append(line)
    lines[:] = found


def skip_fields(app, what, name, obj, skip, options):
    """The fields of a NamedTuple are in its docstring."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("autodoc-process-docstring", equations, priority=100)  # napoleon's is 500
    app.connect("autodoc-skip-member", skip_fields)
