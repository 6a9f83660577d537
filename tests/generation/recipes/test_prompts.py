import dataclasses

import pytest

from generation.recipes.labels import ClassEntry, LabelSpace
from generation.recipes.plan import plan_sample
from generation.recipes.prompts import template_text
from generation.recipes.recipe import Recipe

SEVEN = ClassEntry(
    class_name="seven",
    wnid="n13744916",
    synset="seven.n.01",
    lemmas=("seven", "7"),
    definition="the sum of six and one",
    hypernyms=("digit", "numeral"),
)


@pytest.fixture
def sevens(painted: Recipe) -> Recipe:
    """Recipe with one class, one background, one caption."""
    return dataclasses.replace(
        painted,
        label_space=LabelSpace("sevens", (SEVEN,)),
        backgrounds=("stripes",),
        captions=(("a lucky number",),),
    )


def prompt_of(recipe: Recipe, template: str, **settings) -> str:
    return plan_sample(dataclasses.replace(recipe, templates=(template_text(template),), **settings), 0).prompt


@pytest.mark.parametrize(
    ("form", "prompt"),
    [
        ("class_name", "seven, 7"),
        ("hypernym", "seven, 7, digit"),
        ("definition", "seven, 7, the sum of six and one"),
        ("multiple", "multiple seven, 7"),
        ("background", "seven, 7 inside stripes"),
        ("hypernym_background", "seven, 7, digit inside stripes"),
        ("caption", "a lucky number"),
        ("an ink {class_name}: {definition}", "an ink seven: the sum of six and one"),
        ("{{{class_name}}}", "{seven}"),
    ],
)
def test_paper_forms_and_free_templates(form: str, prompt: str, sevens: Recipe):
    assert prompt_of(sevens, form) == prompt


def test_first_lemma_and_all_hypernyms(sevens: Recipe):
    assert prompt_of(sevens, "hypernym", lemmas="first", hypernym="all") == "seven, digit, numeral"


def test_random_hypernym_is_drawn_by_index(sevens: Recipe):
    recipe = dataclasses.replace(sevens, templates=("{lemmas}, {hypernym}",), hypernym="random")
    prompts = [plan_sample(recipe, index).prompt for index in range(40)]
    assert set(prompts) == {"seven, 7, digit", "seven, 7, numeral"}
    assert min(prompts.count(prompt) for prompt in set(prompts)) >= 10
    assert prompts == [plan_sample(recipe, index).prompt for index in range(40)]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("poem", r"'poem', which does not name the class\. Use class_name, hypernym, definition"),
        ("a photo of {class}", r"field \{class\} is unknown\. Use \{class_name\}, \{lemmas\}"),
        ("{class_name.__class__}", r"field \{class_name\.__class__\} is unknown"),
        ("{} {class_name}", r"field \{\} is unknown"),
        ("inside {background}", "does not name the class"),
        ("a {class_name", "Write braces as {{ and }}"),
        ("{class_name:{caption}}", r"whose field \{class_name\} has a ! or :"),
        ("{class_name!r}", r"whose field \{class_name\} has a ! or :"),
    ],
)
def test_invalid_template_is_rejected(template: str, message: str):
    with pytest.raises(ValueError, match=message):
        template_text(template)
