import dataclasses

import pytest
from timm.data.imagenet_info import ImageNetInfo

from generation.data.build_table import digits, imagenet1k
from generation.recipes.labels import (
    TABLES,
    ClassEntry,
    LabelSpace,
    check_no_duplicate_class,
    label_space_from_value,
    load_label_space,
)
from generation.recipes.wordnet import DEBIAN_WORDNET, open_wordnet

IMAGENET = ImageNetInfo("imagenet-1k")


def test_labels_of_digits_are_their_values():
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert load_label_space("digits").class_names == names


@pytest.mark.parametrize(("name", "num_classes"), [("digits", 10), ("imagenet100", 100), ("imagenet1k", 1000)])
def test_labels_follow_sorted_wnids(name: str, num_classes: int):
    wnids = [entry.wnid for entry in load_label_space(name).classes]
    assert wnids == sorted(set(wnids))
    assert len(wnids) == num_classes


def test_imagenet1k_has_timms_wnids_lemmas_and_definitions():
    classes = load_label_space("imagenet1k").classes
    assert [entry.wnid for entry in classes] == IMAGENET.label_names()
    assert [f"{', '.join(entry.lemmas)}: {entry.definition}" for entry in classes] == IMAGENET.label_descriptions(
        detailed=True
    )


def test_imagenet_classes_have_one_to_three_hypernyms():
    counts = [len(entry.hypernyms) for entry in load_label_space("imagenet1k").classes]
    assert [counts.count(number) for number in (1, 2, 3)] == [962, 37, 1]


def test_imagenet100_is_the_listed_subset_of_imagenet1k():
    listed = (TABLES / "imagenet100.txt").read_text().split()
    space = load_label_space("imagenet100")
    assert sorted(listed) == [entry.wnid for entry in space.classes]
    assert set(space.classes) <= set(load_label_space("imagenet1k").classes)


def test_error_for_an_unknown_label_space_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'letters'.*digits.*imagenet1k"):
        load_label_space("letters")


def test_class_is_found_by_wnid_or_unique_name():
    space = load_label_space("imagenet1k")
    assert space.label_of("n01440764") == space.label_of("tench") == 0
    with pytest.raises(ValueError, match=r"'crane' is the name of several .*n02012849 \(large long-necked.*n03126707"):
        space.label_of("crane")
    with pytest.raises(ValueError, match=r"'goldfsh' is not a class of imagenet1k\. Did you mean goldfish"):
        space.label_of("goldfsh")
    with pytest.raises(ValueError, match=r"'n99999999' is not a class"):
        space.label_of("n99999999")


def test_recipe_value_has_hash_of_builtin_and_content_of_user_classes():
    shipped = load_label_space("imagenet1k")
    assert shipped.to_value().keys() == {"name", "sha256"}
    assert label_space_from_value(shipped.to_value()) == shipped
    own = LabelSpace("mine.yaml", (ClassEntry("a", definition="first"), ClassEntry("b", lemmas=("b", "B"))))
    assert label_space_from_value(own.to_value()) == own


def test_table_of_another_version_is_rejected():
    with pytest.raises(ValueError, match="label space digits has hash 000000000000"):
        label_space_from_value({"name": "digits", "sha256": "0" * 64})


def test_duplicate_class_is_rejected_but_two_senses_of_a_name_are_allowed():
    bird, machine = (load_label_space("imagenet1k").classes[label] for label in (134, 517))
    assert bird.class_name == machine.class_name == "crane"
    check_no_duplicate_class(LabelSpace("cranes", (bird, machine)))
    with pytest.raises(ValueError, match=r"cranes has the class 'n02012849' 2 times"):
        check_no_duplicate_class(LabelSpace("cranes", (bird, machine, dataclasses.replace(bird, class_name="heron"))))


@pytest.mark.skipif(not DEBIAN_WORDNET.is_dir(), reason="WordNet 3.0 is not installed (Debian: wordnet-base)")
def test_tables_match_wordnet():
    wordnet = open_wordnet()
    assert tuple(digits(wordnet)) == load_label_space("digits").classes
    assert tuple(imagenet1k(wordnet)) == load_label_space("imagenet1k").classes


def test_class_is_found_in_any_unicode_form():
    composed, decomposed = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
    for ours, theirs in ((composed, decomposed), (decomposed, composed)):
        assert LabelSpace("mine", (ClassEntry("other"), ClassEntry(ours))).label_of(theirs) == 1


def test_names_that_differ_only_in_underscores_are_duplicates():
    with pytest.raises(ValueError, match=r"has the classes 'snowy owl' and 'snowy_owl', which differ only in case"):
        check_no_duplicate_class(LabelSpace("mine", (ClassEntry("snowy owl"), ClassEntry("snowy_owl"))))
    for owl in ("\ufeffowl", "o\u200bwl"):  # the mark of a file's beginning, a space without width
        with pytest.raises(ValueError, match="Unicode encoding"):
            check_no_duplicate_class(LabelSpace("mine", (ClassEntry(owl), ClassEntry("owl"))))
