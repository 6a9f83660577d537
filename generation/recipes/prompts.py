"""Prompt templates, from a class to its prompt.

Pure text. The plan chooses the class, template and background of a sample.
"""

from string import Formatter

PAPER_TEMPLATES = {
    "class_name": "{lemmas}",
    "hypernym": "{lemmas}, {hypernym}",
    "definition": "{lemmas}, {definition}",
    "multiple": "multiple {lemmas}",
    "background": "{lemmas} inside {background}",
    "hypernym_background": "{lemmas}, {hypernym} inside {background}",
}
"""The prompt forms of arXiv 2212.08420: c is all lemmas, h_c the hypernym, d_c the definition, b a background."""

CLASS_FIELDS = ("class_name", "lemmas", "definition", "caption")
"""Fields that identify the class; a template needs at least one."""

FIELDS = (*CLASS_FIELDS, "hypernym", "background")
"""All fields of templates."""


def template_text(template: str) -> str:
    """Return the text of a named form or of a free template; raise ValueError if it is invalid."""
    if template in PAPER_TEMPLATES:
        return PAPER_TEMPLATES[template]
    if template == "caption":
        return "{caption}"
    check_plain(template)
    unknown = sorted(fields_of(template) - set(FIELDS))
    if unknown:
        raise ValueError(
            f"recipe.templates has '{template}', whose field {{{unknown[0]}}} is unknown. Use "
            f"{', '.join(f'{{{name}}}' for name in FIELDS)}."
        )
    if not fields_of(template) & set(CLASS_FIELDS):
        raise ValueError(
            f"recipe.templates has '{template}', which does not name the class. Use {', '.join(PAPER_TEMPLATES)}, "
            f"caption, or a text with {{{'} or {'.join(CLASS_FIELDS)}}}."
        )
    return template


def check_plain(template: str) -> None:
    """Raise ValueError for stray braces, format specs and conversions."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"recipe.templates has '{template}': {error}. Write braces as {{{{ and }}}}.") from error
    for _, name, spec, conversion in parts:
        if spec or conversion:
            raise ValueError(
                f"recipe.templates has '{template}', whose field {{{name}}} has a ! or :. Write the field name alone."
            )


def fields_of(*templates: str) -> set[str]:
    """Return the fields used in the templates' texts."""
    return {name for text in templates for _, name, _, _ in Formatter().parse(text) if name is not None}
