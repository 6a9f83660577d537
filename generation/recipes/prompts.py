"""Prompt templates: from a class to the sentence that asks for its picture.

Pure text. Which class, template and background a sample has is the plan's business.
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
"""The forms of arXiv 2212.08420, where c is all lemmas, h_c the hypernym, d_c the definition, b a background."""

CLASS_FIELDS = ("class_name", "lemmas", "definition", "caption")
"""Fields that say which class is meant: a template needs one."""

FIELDS = (*CLASS_FIELDS, "hypernym", "background")
"""All that a template may ask for."""


def template_text(template: str) -> str:
    """Return a template's text: that of a named form, or a free one as it is; ValueError for what is neither."""
    if template in PAPER_TEMPLATES:
        return PAPER_TEMPLATES[template]
    if template == "caption":
        return "{caption}"
    check_plain(template)
    unknown = sorted(fields_of(template) - set(FIELDS))
    if unknown:
        raise ValueError(
            f"recipe.templates has '{template}', whose field {{{unknown[0]}}} is not known. Fields are "
            f"{', '.join(f'{{{name}}}' for name in FIELDS)}."
        )
    if not fields_of(template) & set(CLASS_FIELDS):
        raise ValueError(
            f"recipe.templates has '{template}', which names no class. Choose one of {', '.join(PAPER_TEMPLATES)}, "
            f"caption, or write a text with {{{'} or {'.join(CLASS_FIELDS)}}}."
        )
    return template


def check_plain(template: str) -> None:
    """Raise ValueError for stray braces, and for what Python's formatting knows beside fields."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"recipe.templates has '{template}': {error}. Write {{{{ and }}}} for braces.") from error
    for _, name, spec, conversion in parts:
        if spec or conversion:
            raise ValueError(f"recipe.templates has '{template}'. Write the field {{{name}}} without ! and : in it.")


def fields_of(*templates: str) -> set[str]:
    """Return the fields that the templates' texts ask for."""
    return {name for text in templates for _, name, _, _ in Formatter().parse(text) if name is not None}
