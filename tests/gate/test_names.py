"""Names of models, aliases and tags are compared as people read them."""

import pytest

from mlflow_rlrisk.gate.names import matches, readable
from mlflow_rlrisk.gate.promotion_policy import PromotionRule, Target
from mlflow_rlrisk.gate.tags import is_reserved


@pytest.mark.parametrize(
    "spelling",
    [
        "Champion",
        "champion\n",
        " champion\t",
        "cham pion",
        "ｃｈａｍｐｉｏｎ",
        "сhampion",
        "champiοn",
        "ch%61mpion",
        "ch%2561mpion",
        "ch%25252561mpion",
        "cham\u200bpion",
        "cham\u00adpion",
        "chámpion",
        "CHAMPİON",
        "𝐜𝐡𝐚𝐦𝐩𝐢𝐨𝐧",
        "ⓒhampion",
        "champıon",
        "ᴄʜᴀᴍᴘɪᴏɴ",
        "CHA\u039c\u03a1\u0399\u039fN",
        "cħampɨøn",
        "champi\u0585\u0578",
    ],
)
def test_what_reads_like_a_protected_name_is_one(spelling: str) -> None:
    rule = PromotionRule(name="r", aliases=["champion"])

    assert readable(spelling) == "champion"
    assert rule.protects(Target("alias", spelling))


@pytest.mark.parametrize(
    ("protected", "spelling"),
    [
        ("rl-ready", "rl-r\u0454ady"),  # Ukrainian ie
        ("rl-ready", "rl-r\u0259ady"),  # schwa
        ("rl-ready", "r1-ready"),
        ("rl-ready", "rI-ready"),
        ("rl-ready", "r\u2160-ready"),  # Roman numeral one
        ("rl-ready", "r\u0627-ready"),  # Arabic alef
        ("rl-ready", "\u0433\u04cf-ready"),  # a whole word is Cyrillic, another one Latin
        ("best-0", "best-O"),
        ("best-1", "best-l"),
        ("champion", "charnpion"),
        ("champion", "champio\u039d"),  # the Greek capital Nu
        ("TOKEN", "\u03a4\u039f\u039a\u0395\u039d"),  # Greek capitals alone
        ("v3", "v\u0417"),  # the Cyrillic capital Ze
        ("чемпион", "чемпиoн"),
    ],
)
def test_what_looks_like_a_protected_name_is_one(protected: str, spelling: str) -> None:
    assert PromotionRule(name="r", aliases=[protected]).protects(Target("alias", spelling))


@pytest.mark.parametrize(
    ("protected", "name"),
    [
        ("rl-ready", "rl-готов"),
        ("rl-ready", "готовы-x"),
        ("champion", "кандидат"),
        ("prod-x", "prod-候"),
        ("best-1", "best-2"),
        ("rl-ready", "ri-ready"),
        ("rl-ready", "rl-rєadyy"),
        ("чемпион", "чемпионы"),
        ("чемпион", "чемпиан"),
        ("чемпиoн", "чемпиан"),
    ],
)
def test_a_word_of_another_script_and_another_letter_make_another_name(
    protected: str, name: str
) -> None:
    assert not PromotionRule(name="r", aliases=[protected]).protects(Target("alias", name))


def test_a_tag_that_looks_like_one_of_ours_is_one() -> None:
    for key in ("rlrisk.risk_level", "rIrisk.risk_level", "rlrіsk.x", "r1risk.step"):
        assert is_reserved(key)
    for key in ("rlrisk.step", "rlrisk", "ririsk.x", "other.x"):
        assert not is_reserved(key)


@pytest.mark.parametrize("name", ["champion2", "champ", "champions", "候选", "", "chamPlon"])
def test_other_names_are_other_names(name: str) -> None:
    assert not PromotionRule(name="r", aliases=["champion"]).protects(Target("alias", name))


def test_dashes_of_all_kinds_are_one() -> None:
    assert readable("rl\u2010ready") == readable("rl–ready") == readable("rl—ready") == "rl-ready"


def test_an_endless_escape_ends() -> None:
    assert readable("%" + "25" * 40 + "61") != "a"
    assert readable("%" + "25" * 7 + "61") == "a"
    assert readable("%" + "25" * 8 + "61") == "%61"


def test_patterns_match_the_readable_name() -> None:
    assert matches("PROD-x", "prod-*")
    assert matches("рrod-x", "Prod-*")
    assert not matches("preprod-x", "prod-*")
