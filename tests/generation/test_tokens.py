import dataclasses

from generation.recipe import Recipe
from generation.tokens import open_token_counter


def test_tokens_are_counted_with_begin_and_end_by_the_models_own_tokenizer(digits: Recipe):
    counter = open_token_counter(digits)
    assert counter is not None
    assert counter.limits == {"tokenizer": 64}
    counts = counter.count(["", "seven", "seven, seven"])["tokenizer"]
    assert counts.tolist() == [2, 3, 5]


def test_a_prompt_is_counted_to_its_end_though_the_model_would_cut_it_off(digits: Recipe):
    counter = open_token_counter(digits)
    assert counter is not None
    assert counter.count(["seven " * 100])["tokenizer"].tolist() == [102]


def test_nothing_is_counted_where_there_is_no_tokenizer(painted: Recipe):
    assert open_token_counter(painted) is None
    assert open_token_counter(dataclasses.replace(painted, model="no/such-model", revision="0" * 40)) is None
