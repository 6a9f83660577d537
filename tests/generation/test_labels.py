import pytest

from generation.data.build_table import DEBIAN_WORDNET, table
from generation.labels import load_label_space


def test_digits_are_labelled_by_their_value():
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert load_label_space("digits").class_names == names


def test_labels_follow_the_order_of_wnids_as_imagefolder_does():
    wnids = [entry.wnid for entry in load_label_space("digits").classes]
    assert wnids == sorted(wnids)
    assert wnids[0] == "n13742358"


def test_an_unknown_label_space_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'letters'.*digits"):
        load_label_space("letters")


@pytest.mark.skipif(not DEBIAN_WORDNET.is_dir(), reason="WordNet 3.0 is not installed (Debian: wordnet-base)")
@pytest.mark.filterwarnings("ignore:The multilingual functions")
def test_the_digits_table_is_what_wordnet_says():
    shipped = load_label_space("digits").classes
    rows = table([entry.synset for entry in shipped])
    assert [row["wnid"] for row in rows] == [entry.wnid for entry in shipped]
    assert [tuple(row["lemmas"]) for row in rows] == [entry.lemmas for entry in shipped]
    assert [row["definition"] for row in rows] == [entry.definition for entry in shipped]
    assert [tuple(row["hypernyms"]) for row in rows] == [entry.hypernyms for entry in shipped]
