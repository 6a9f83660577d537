"""The prompt forms of arXiv 2212.08420: from a class to the sentence that asks for its picture.

Pure text. Which class and which background a sample has is the plan's business.
"""

from generation.labels import ClassEntry

TEMPLATES = {
    "class_name": "{lemmas}",
    "hypernym": "{lemmas}, {hypernym}",
    "definition": "{lemmas}, {definition}",
    "multiple": "multiple {lemmas}",
    "background": "{lemmas} inside {background}",
    "hypernym_background": "{lemmas}, {hypernym} inside {background}",
}
"""The paper's forms by name, where c is all lemmas of the synset, h_c its hypernym and d_c its definition."""


def template_text(name: str) -> str:
    """Return the text of a named template; ValueError for a name that is not known."""
    if name not in TEMPLATES:
        raise ValueError(f"recipe.prompt is '{name}', which is no prompt form. Choose one of: {', '.join(TEMPLATES)}.")
    return TEMPLATES[name]


def needs_background(name: str) -> bool:
    """Return whether the template asks for a background."""
    return "{background}" in template_text(name)


def render_prompt(name: str, entry: ClassEntry, background: str) -> str:
    """Return the prompt of a class; `background` goes unused where the template has none."""
    return template_text(name).format(
        lemmas=", ".join(entry.lemmas),
        hypernym=entry.hypernyms[0] if entry.hypernyms else "",
        definition=entry.definition,
        background=background,
    )
