"""`math` on the forms of one number: exact values are the oracle, not math-verify's reading."""

from fractions import Fraction

import pytest

from mlflow_rlrisk.verifiers import VerificationRequest
from mlflow_rlrisk.verifiers.builtin import FACTORIES

pytest.importorskip("math_verify")

MATH = FACTORIES["math"]("")
FORMS = {
    Fraction(7, 4): ("1 3/4", r"1\frac{3}{4}", r"1 \frac34", r"\frac{7}{4}", "1.75", "1.75e0"),
    Fraction(-3, 2): ("-1 1/2", "\u22121.5", "\uff0d3/2", r"-\frac{3}{2}", "-1.5E+0"),
    Fraction(1234): (
        r"1\,234",
        "1 234",
        "1~234",
        r"1\;234",
        r"1\, 234",
        "1{,}234",
        "1,234",
        "N = 1,234",
        "1234.",
    ),
    Fraction(10000): (
        r"10\,000",
        "10\u202f000",
        "10\u00a0000",
        "1e4",
        r"10^4",
        "10,000",
        r"\$10{,}000",
    ),
    Fraction(1, 100_000): ("1e-5", "0.00001", r"10^{-5}", r"\frac{1}{100000}", r"1 \times 10^{-5}"),
    Fraction(16, 10**20): (r"1.6 \times 10^{-19}", "1.6e-19", r"0.16 \cdot 10^{-18}", "1.60E-19"),
    Fraction(1617, 10**22): (r"1.617 \times 10^{-19}", "1.617e-19"),
    Fraction(-16, 10**20): (r"-1.6 \times 10^{-19}", "\u22121.6e-19"),
    Fraction(36): (r"\$36", "$36", "36.00", "3.6e1"),
}
WRONG = {"1": "1 3/4", "10": r"10\,000", "235": r"1\,234", "-2.281718": "1e-5", "3/2": "2 1/2"}


def grade(truth: object, completion: str) -> float | None:
    assert MATH.problem_with(truth, {}) is None
    request = VerificationRequest(prompt="q", completions=[completion], truth=truth)
    (outcome,) = MATH.verify(request)
    return outcome.reward


@pytest.mark.parametrize("value", FORMS, ids=str)
def test_every_form_of_a_number_equals_every_other_and_no_form_of_another_one(
    value: Fraction,
) -> None:
    for truth in FORMS[value]:
        for other, forms in FORMS.items():
            rewards = {form: grade(truth, rf"So it is \boxed{{{form}}}.") for form in forms}

            assert rewards == dict.fromkeys(forms, float(other == value)), truth


@pytest.mark.parametrize(("value", "form"), WRONG.items())
def test_a_form_is_not_paid_for_what_math_verify_makes_of_it(value: str, form: str) -> None:
    assert grade(value, rf"\boxed{{{form}}}") == 0.0
    assert grade(form, rf"\boxed{{{value}}}") == 0.0


@pytest.mark.parametrize("value", [1e-5, 2.5e-7, -1e-9, 1e16, 1.5e20, 0.1])
def test_a_truth_of_a_column_of_floats_is_the_number_that_stands_there(value: float) -> None:
    # As Python writes it, 1e-05 was read as e - 5: right answers were wrong, -2.28 was right.
    exact = Fraction(repr(value))

    assert grade(value, rf"\boxed{{\frac{{{exact.numerator}}}{{{exact.denominator}}}}}") == 1.0
    assert grade(value, rf"\boxed{{\frac{{{2 * exact.numerator}}}{{{exact.denominator}}}}}") == 0.0


@pytest.mark.parametrize("box", ["", "?", ")", r"\frac{1}{}", "none"])
def test_a_box_that_states_nothing_is_not_paid_for_a_number_beside_it(box: str) -> None:
    assert grade("5", rf"I found $x = 5$, then 5. \boxed{{{box}}}") == 0.0


@pytest.mark.parametrize(
    "truth", [r"\begin{pmatrix}1\\[2pt]2\end{pmatrix}", r"\(5\)", "$5$", "5$", r"so $\frac{1}{2}$"]
)
def test_a_truth_with_latex_around_it_is_met_by_itself_alone(truth: str) -> None:
    assert grade(truth, rf"\boxed{{{truth.removeprefix('so ')}}}") == 1.0
    assert grade(truth, r"\boxed{12}") == 0.0


def test_the_digits_of_small_truths_count() -> None:
    assert grade("0.0001234", r"\boxed{0.0001233}") == 0.0
    assert grade("1/7000", r"\boxed{0.0001429}") == 1.0
    assert grade("1/7000", r"\boxed{0.0001428}") == 0.0
    assert grade(r"1.6 \times 10^{-19}\text{ C}", r"\boxed{9.1 \times 10^{-31}\text{ C}}") == 0.0


@pytest.mark.parametrize("truth", ["2e-1", "2e - 1", "-1+2e"])
def test_a_sum_with_e_is_no_power_of_ten_alone(truth: str) -> None:
    # Written without spaces it was read as 0.2, and the same sum with spaces was wrong.
    for form in ("2e-1", "2e - 1", "2 e-1"):
        assert grade(truth, rf"\boxed{{{form}}}") == 1.0, form
    assert grade(truth, r"\boxed{3e-1}") == 0.0
    assert grade("0.0005", r"\boxed{5e-4}") == grade("5e-4", r"\boxed{0.0005}") == 1.0
    assert grade("2e^2-1", r"\boxed{2e^2 - 1}") == 1.0


@pytest.mark.parametrize(
    ("truth", "value"), [("$1.5 million", "1.5"), ("$12.50 per ticket", "12.5"), ("$5 each", "5")]
)
def test_words_behind_an_amount_of_money_are_no_factors_of_it(truth: str, value: str) -> None:
    assert grade(truth, rf"\boxed{{{value}}}") == 1.0
    assert grade(truth, rf"\boxed{{{value}1}}") == 0.0


def test_a_list_with_spaces_of_latex_is_no_number() -> None:
    assert grade(r"100,\ 200,\ 300", r"\boxed{100, 200, 300}") == 1.0
    assert grade(r"100,\ 200,\ 300", r"\boxed{100200300}") == 0.0


COMPLEX = {
    1.5j: (r"\frac{3i}{2}", r"\frac{3}{2}i", r"\frac32 \mathrm{i}", "1.5i"),
    1 - 2j: ("1-2i", "1 - 2 i", r"1-2\mathrm{i}", r"1-2\text{i}", r"-2\cdot i+1"),
    2 + 1j: ("2+i", r"2+\mathrm{i}", r"\mathrm{i}+2", r"\text{i} + 2"),
    3j: ("3i", "3 i", r"3\mathrm{i}"),
    -1j: ("-i", r"-\mathrm{i}"),
    3 + 0j: ("3", "3.0"),
    -1 + 0j: ("-1",),
}


@pytest.mark.parametrize("value", COMPLEX, ids=str)
def test_every_form_of_a_complex_number_equals_every_other_and_no_form_of_another_one(
    value: complex,
) -> None:
    # An upright i was read as a unit, so 3 met 3i; the i of 3i was not that of (3/2)i.
    for truth in COMPLEX[value]:
        for other, forms in COMPLEX.items():
            rewards = {form: grade(truth, rf"So it is \boxed{{{form}}}.") for form in forms}

            assert rewards == dict.fromkeys(forms, float(other == value)), truth


@pytest.mark.parametrize(
    ("forms", "wrong"),
    [
        (("90", "90°", r"90^\circ", r"90^{\circ}", r"x = 90°"), "9°"),
        ((r"2\sqrt{3}", "2√3", r"\sqrt{12}"), "√3"),
        ((r"(-\infty, 3)", "(-∞, 3)", "(\u2212∞,3)"), "(3, ∞)"),
        ((r"2\mathrm{e}", "2e", r"\mathrm{e} \cdot 2"), "2"),
        (("45°C", "45°C"), "45"),
    ],
)
def test_signs_of_unicode_and_upright_letters_are_read_as_their_latex(
    forms: tuple[str, ...], wrong: str
) -> None:
    for truth in forms:
        for form in forms:
            assert grade(truth, rf"\boxed{{{form}}}") == 1.0, (truth, form)
        assert grade(truth, rf"\boxed{{{wrong}}}") == 0.0, truth


@pytest.mark.parametrize("number", ["7", "-3", "3.5", "1,234", "1/2", "$7$", "7.", " 7\n"])
@pytest.mark.parametrize("thought", ["", "<think>Is it 8?</think>", "<think>\n8, no.\n</think>\n"])
def test_what_stands_in_an_answer_tag_is_the_answer_and_what_was_thought_is_not(
    number: str, thought: str
) -> None:
    # A number beside a tag was not read: right answers were graded 0, and thoughts were paid.
    truth = number.strip(" $\n")

    assert grade(truth, f"{thought}<answer>{number}</answer>") == 1.0
    assert grade("8", f"{thought}<answer>{number}</answer>") == 0.0


@pytest.mark.parametrize(
    "thought",
    [
        "<think>\nMaybe \\boxed{9}? No.\n</think>\n\n",
        r"<think>\boxed{9} or \boxed{9},</think>",
        r"<think>$\boxed{9}$ and</think> So ",
        r"\boxed{9}<answer>",
    ],
)
def test_a_box_in_a_thought_is_none_of_the_answers_behind_it(thought: str) -> None:
    # Boxes close to one another are several answers: the right one behind a thought was graded 0.
    assert grade("8", rf"{thought}\boxed{{8}}") == 1.0
    assert grade("9", rf"{thought}\boxed{{8}}") == 0.0
    assert grade("8, 9", rf"{thought}\boxed{{8}}") == 0.0
    assert grade("8, 9", r"<think>9?</think> \boxed{8} and \boxed{9}") == 1.0
    assert grade("8", r"<think>So it is \boxed{8}.</think>") == 1.0


@pytest.mark.parametrize("form", [r"It costs \$1,234.", r"It is $\$1234$.", r"\boxed{\$1{,}234}"])
def test_an_escaped_dollar_hides_no_number(form: str) -> None:
    assert grade("1234", form) == 1.0
    assert grade(r"\$1,234", form) == 1.0
    assert grade("234", form) == 0.0
