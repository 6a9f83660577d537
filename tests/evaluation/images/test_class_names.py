"""Mapping of a set's class names to a classifier's labels."""

import pytest

from evaluation.images.class_names import NOT_SHARED, labels_of_classes, labels_of_titles, matching_labels
from generation.recipes.labels import ClassEntry, LabelSpace, load_label_space
from tests.support.birds import BIRDS

CARS = LabelSpace("cars", (ClassEntry("Polo"), ClassEntry("polo")))
LINES = LabelSpace("lines", (ClassEntry("3"), ClassEntry("U3"), ClassEntry("0")))


def labels(*names: str, space: LabelSpace = BIRDS) -> list[int]:
    return labels_of_classes(names, "/birds", space).tolist()


def test_classes_match_by_wnid_or_name_in_any_spelling():
    assert labels("n02012849", "N03126707", "SNOWY_owl", "Puffin") == [0, 1, 2, 3]
    assert labels("puffin", "snowy owl") == [3, 2]
    assert labels() == []


def test_numbers_are_labels_in_any_order():
    imagenet = load_label_space("imagenet1k")
    assert labels("0", "1", "10", "100", "999", "2", space=imagenet) == [0, 1, 10, 100, 999, 2]
    assert labels("003", "000") == [3, 0]
    assert labels_of_classes(["3"], "/birds", BIRDS).dtype == "int64"


def test_number_that_is_too_high_is_refused():
    with pytest.raises(
        ValueError, match=r"^'/birds' has the class number 4, but birds has 4 classes, from 0\. Check[^\n]*$"
    ):
        labels("0", "4", "3")


def test_class_named_3_is_not_the_fourth():
    assert labels("3", space=LINES) == [0]
    assert labels("0", "3", "u3", space=LINES) == [2, 0, 1]
    with pytest.raises(ValueError, match=r"^1 of 2 classes in '/birds' match no class of lines: 1\. Name"):
        labels("1", "3", space=LINES)
    assert labels("1", "2", space=LINES) == [1, 2]  # none of these is a name


def test_number_among_names_is_a_name():
    with pytest.raises(ValueError, match=r"^1 of 2 classes .* no class of birds: 2\. Name"):
        labels("puffin", "2")


def test_exact_name_precedes_another_case():
    assert labels("polo", "Polo", space=CARS) == [1, 0]
    with pytest.raises(ValueError, match=r"^The class 'POLO' in '/birds' .* 2 classes of cars.*: Polo or polo\.$"):
        labels("polo", "POLO", space=CARS)


def test_unknown_classes_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^4 of 5 classes in '/birds' .* birds: auk, dodo, kiwi, \.\.\. Name[^\n]*$"):
        labels("puffin", "auk", "dodo", "kiwi", "moa")


def test_ambiguous_name_requires_a_wnid():
    with pytest.raises(ValueError, match=r"^The class 'crane' .* name of one class: n02012849 or n03126707\.$"):
        labels("puffin", "crane")


def test_label_spaces_match_by_wnid_despite_names():
    ours = LabelSpace("ours", (ClassEntry("white bird", wnid="n01621127"), ClassEntry("lifting", wnid="n03126707")))
    assert matching_labels(BIRDS, ours).tolist() == [NOT_SHARED, 1, 0, NOT_SHARED]
    assert matching_labels(ours, BIRDS).tolist() == [2, 1]
    assert matching_labels(ours, BIRDS).dtype == "int64"


def test_one_name_with_two_wnids_is_two_classes():
    ours = LabelSpace("ours", (ClassEntry("Snowy Owl", wnid="n00000001"),))
    assert matching_labels(BIRDS, ours).tolist() == [NOT_SHARED] * 4


def test_classes_match_by_name_if_one_has_no_wnid():
    ours = LabelSpace("ours", (ClassEntry("PUFFIN", wnid="n00000002"), ClassEntry("snowy_owl")))
    assert matching_labels(BIRDS, ours).tolist() == [NOT_SHARED, NOT_SHARED, 1, 0]
    assert matching_labels(ours, BIRDS).tolist() == [3, 2]


def test_label_space_matches_itself():
    assert matching_labels(BIRDS, BIRDS).tolist() == [0, 1, 2, 3]
    assert matching_labels(CARS, CARS).tolist() == [0, 1]


def test_class_without_wnid_matches_itself_despite_a_namesake():
    cranes = LabelSpace("cranes", (ClassEntry("crane"), ClassEntry("crane", wnid="n02012849")))
    assert matching_labels(cranes, cranes).tolist() == [0, 1]


def test_imagenet100_shares_its_hundred_classes_with_imagenet1k():
    thousand, hundred = load_label_space("imagenet1k"), load_label_space("imagenet100")
    ours = matching_labels(thousand, hundred)
    assert sorted(ours[ours != NOT_SHARED]) == list(range(100))
    assert (ours == NOT_SHARED).sum() == 900
    labels_in_thousand = matching_labels(hundred, thousand)
    assert [thousand.classes[label] for label in labels_in_thousand] == list(hundred.classes)


def test_titles_precede_numbers():
    space = LabelSpace("digits", tuple(ClassEntry(name) for name in ("zero", "one", "two")))
    titles = ("one", "two", "zero")  # sorted by name, as Hugging Face numbers the classes of folders
    assert labels_of_titles(["0", "1", "2"], titles, "/d", space, is_order_known=False).tolist() == [1, 2, 0]
    assert labels_of_titles(["0", "2"], titles, "/d", space, is_order_known=True).tolist() == [1, 0]


def test_titles_that_name_no_classes_are_refused_unless_the_order_is_known():
    space = LabelSpace("digits", tuple(ClassEntry(name) for name in ("zero", "one")))
    assert labels_of_titles(["0", "1"], ("nought, 0", "unity"), "/d", space, is_order_known=True).tolist() == [0, 1]
    with pytest.raises(ValueError, match="match no class of digits: nought, 0, unity"):
        labels_of_titles(["0", "1"], ("nought, 0", "unity"), "/d", space, is_order_known=False)
    assert labels_of_titles(["1", "0"], (), "/d", space, is_order_known=False).tolist() == [1, 0]


def test_macos_unicode_names_match():
    space = LabelSpace("sizes", (ClassEntry("gr\u00f6\u00dfe"), ClassEntry("\u00c5")))
    assert labels("gro\u0308\u00dfe", "A\u030a", space=space) == [0, 1]


def test_all_lemmas_name_a_class():
    space = LabelSpace("two", (ClassEntry("tench", lemmas=("tench", "Tinca tinca")), ClassEntry("auk")))
    assert labels_of_classes(["auk", "Tench, tinca  tinca"], "there", space).tolist() == [1, 0]
