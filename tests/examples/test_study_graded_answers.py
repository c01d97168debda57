"""Answers to the choice tasks that are right, and ones that break a single constraint."""

import pytest

from examples.study.tasks import CHOICES

GRADED = (
    # [ ( ) ] [ ( ) ] [ ]: given cells are changed
    (
        "brackets",
        "close ( _ _ ) _ _ _ _ [ ] :",
        ["( ( ) ) [ ( ) ] [ ]"],
        [
            "( [ ) ) [ ( ) ] [ ]",
            "( ( ) ) [ ( ] ) [ ]",
            "( ( ) ) ) ( ( ) [ ]",
            "[ ( ) ] [ ( ) ] [ ]",
            "( ( ) ) [ ( ) ] [ ] ( )",
        ],
    ),
    (
        "seating",
        "seat 1 a c e 2 b c d 3 a b f 4 c e f 5 a d e :",
        ["c b a f d"],
        ["c b a c d", "c b e f d", "c b a f", "c b a f 5"],
    ),
    (
        "booking",
        "book 1 3 2 5 3 4 4 8 5 7 7 9 :",
        ["1 3 3 4 5 7", "3 4 5 7 7 9"],
        ["1 3 2 5 5 7", "1 3 3 5 5 7", "3 4 1 3 5 7", "1 3 3 4 3 4", "1 3 3 4 : 7"],
    ),
    (
        "weaving",
        "weave a c b d a with c a d b a :",
        ["c a c b d b a"],
        ["c a c d b b a", "c a b b d b a", "a c b d a c a d b a", "c a c b d a"],
    ),
    # - - + - +: -1
    (
        "weighing",
        "weigh 3 8 5 2 7 to 1 :",
        ["+ + - + -"],
        ["- - + - +", "+ + - - -", "+ + - +", "+ + - + 7"],
    ),
    ("turning", "turn 2 3 5 7 from 1 to 4 :", ["3 3 7", "3 5 5"], ["2 5 5", "1 1 1", "3 3 7 from"]),
    (
        "guarding",
        "guard a b a d a g b d b e c d c f d g e f :",
        ["a d e f"],
        ["a d b c", "a d e e", "a d e"],
    ),
    # 1 2 3 7 11: 4 is missing
    (
        "sorting",
        "sort 7 2 11 4 :",
        ["2 4 5 7 11"],
        ["2 4 5 11 7", "2 4 7 7 11", "2 4 7 11", "2 4 5 6 7 11", "1 2 3 7 11"],
    ),
    ("translating", "translate c a d b :", ["p i k m"], ["k i k m", "p i k n"]),
    (
        "summing",
        "sum 3 8 5 6 by 9 :",
        ["8 8 5 4 3 7 6 4"],
        ["8 8 5 4 3 7 6 5", "8 8 5 5 3 7 6 4", "8 8 5 4 3 7 3 1"],
    ),
    ("multiplying", "multiply 3 6 2 by 7 :", ["6 6 3 4 2 1"], ["6 6 3 4 2 8", "6 6 3 4 3 5"]),
    # 7 5 3: not in their order
    ("dividing", "divide 7 3 9 2 5 4 by 3 :", ["7 3 5"], ["7 5 3", "7 3 9", "7 7 7"]),
    ("balancing", "balance 7 3 9 2 5 4 :", ["l r r l l r"], ["l r r r l r", "l r r l l 4"]),
    (
        "hiding",
        "hide c a d b :",
        ["c b a c d b"],
        ["c a d b", "c a a d b a", "c d a b d a", "c a d b a hide"],
    ),
    # 4 6 2: 5 is taken
    ("parking", "park 2 3 1 between 5 9 10 :", ["3 6 2"], ["3 6 3", "4 6 2", "3 8 2"]),
    (
        "hiking",
        "hike a to f by a b a c b c b d b f c d c e d e d f e g f g :",
        ["a c b f", "a b d f"],
        ["a d b f", "a b a f", "b a d f", "a c b by"],
    ),
    (
        "queueing",
        "queue c a f b a e d b c e :",
        ["c a d f b e"],
        ["a c d f b e", "c a d f b b", "c a d f b"],
    ),
    # a c b d a: in the first row only; a b b a c: in the second row only
    (
        "sharing",
        "share a c b d a c b d with c a d b b a c d :",
        ["a d a c d"],
        ["a c b d a", "a b b a c", "a d a c"],
    ),
    # 1 3 6 8 9: 3 comes before 1
    (
        "climbing",
        "climb 5 2 7 3 1 6 8 4 9 2 :",
        ["2 3 6 8 9"],
        ["2 3 8 6 9", "2 3 3 8 9", "1 3 6 8 9", "2 3 6 8 9 9"],
    ),
    # 5 2 7 2: one short; 5 5 2 5: fills it, two equal side by side; 1 6 7 3: other tiles
    ("tiling", "tile 17 with 2 3 5 7 :", ["5 2 7 3"], ["5 2 7 2", "5 5 2 5", "1 6 7 3"]),
    # 2 4 5: no g
    (
        "covering",
        "cover 1 a c e 2 b d f 3 a b g 4 a b c 5 d e f 6 e f g :",
        ["1 2 3"],
        ["2 1 3", "4 5 2", "2 4 5", "1 2 a"],
    ),
    # 2 4: sorts it, with two swaps
    ("swapping", "swap a e c i g :", ["1 1 2 4"], ["1 2 2 4", "2 4", "1 1 2 5"]),
    (
        "packing",
        "pack 8 7 4 3 5 4 into 12 20 :",
        ["a b a b b b"],
        ["a a b b b b", "b b a b b b", "a b a b b 5"],
    ),
    # 7 9 1 8 3: 8 is not given
    ("swinging", "swing 7 9 1 3 5 4 :", ["7 9 1 5 3"], ["9 7 5 1 3", "7 9 1 5 1", "7 9 1 8 3"]),
    # r r r u u u r u: d4 is closed; r r r r u u u u: e1 too; u u u u u r r r: leaves the grid
    (
        "tracing",
        "trace d4 e1 e2 b4 c2 :",
        ["r r r u u r u u"],
        ["r r r u u u r u", "r r r r u u u u", "u u u u u r r r"],
    ),
)
OF_ANOTHER_KIND = (
    ("sorting", "sort 7 2 13 4 :"),
    ("translating", "translate c a d z :"),
    ("summing", "sum 3 8 5 6 by 7 :"),
    ("multiplying", "multiply 3 6 by 7 :"),
    ("dividing", "divide 7 3 9 2 5 by 3 :"),
    ("balancing", "balance 7 3 9 2 5 0 :"),
    ("hiding", "hide c a d z :"),
    ("parking", "park 2 3 4 between 5 9 10 :"),
)


@pytest.mark.parametrize(("task", "prompt", "right", "wrong"), GRADED)
def test_an_answer_that_breaks_a_constraint_is_wrong(
    task: str, prompt: str, right: list[str], wrong: list[str]
) -> None:
    graded = [answer for answer in (*right, *wrong) if CHOICES[task].is_solution(prompt, answer)]

    assert graded == right


@pytest.mark.parametrize(("task", "prompt"), OF_ANOTHER_KIND)
def test_a_prompt_of_another_kind_is_refused(task: str, prompt: str) -> None:
    with pytest.raises(ValueError, match="is needed"):
        CHOICES[task].parse(prompt)
