"""The settings reference is complete and equals docs/settings.md."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from generation.ranges import AtLeastOne, BelowOne, Documented, Finite, Positive
from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.reference import SCHEMAS, find_settings, reference, settings_of


@dataclass(frozen=True)
class Inner(Documented):
    share: BelowOne = 0.5
    """A share."""

    speed: Positive = 1.0


@dataclass(frozen=True)
class Base(Documented):
    names: tuple[str, ...] = ("a", "b")
    """Names; several are used
    in turn.
    """


@dataclass(frozen=True)
class Outer(Base):
    inner: Inner = field(default_factory=Inner)
    mode: Literal["on", "off"] = "on"
    number: AtLeastOne | str = 1
    weight: Finite = 0.0
    is_quick: bool = False
    sizes: dict[str, AtLeastOne] = field(default_factory=dict)


def test_settings_have_default_type_and_meaning():
    found = {each.path: (each.default, each.kind, each.meaning) for each in settings_of(Outer)}
    assert found == {
        "names": ("[a, b]", "list of text", "Names; several are used in turn."),
        "mode": ("on", "on | off", ""),
        "number": ("1", "1 or more | text", ""),
        "weight": ("0.0", "a finite number", ""),
        "is_quick": ("false", "true | false", ""),
        "sizes": ("{}", "mapping to 1 or more", ""),
        "inner.share": ("0.5", "0 to below 1", "A share."),
        "inner.speed": ("1.0", "more than 0", ""),
    }


def test_summary_is_the_first_clause():
    (names,) = find_settings(Outer, ["names"])
    assert (names.summary, names.name_and_default) == ("Names.", "names=[a, b]")


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_every_setting_has_a_meaning(schema: type[JobConfig]):
    assert [each.path for each in settings_of(schema) if not each.meaning] == []


def test_settings_page_is_up_to_date():
    page = (PROJECT_ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == reference(), "write it again: python -m ray_jobs.cli.reference > docs/settings.md"
