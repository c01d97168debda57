from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.stated_answers import last_boxed
from mlflow_rlrisk.verifiers.extraction import final_number, whole_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("so 3 + 4 = 7.", 7),
        ("first 5, then -6", -6),
        ("10-5", 5),
        ("3 - 5", 5),
        ("x = −5", -5),
        ("total: 1,234,567 apples", 1234567),
        ("1{,}234", 1234),
        ("pi is 3.14", Fraction(314, 100)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4", Fraction(-3, 4)),
        (r"$\frac{3}{4}$", Fraction(3, 4)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"\dfrac12", Fraction(1, 2)),
        ("1.5e-3", Fraction(15, 10_000)),
        (r"3 \times 10^{5}", 300_000),
        ("2×10^3", 2000),
        ("$5.50", Fraction(11, 2)),
        ("-$5", -5),
        (r"\$1,000", 1000),
        ("50%", 50),
        (r"50\%", 50),
        ("The answer is 12 and not 13.", 12),
        ("The answer is 12. I also saw 99.", 12),
        ("Answer: 3 + 4 = 7", 7),
        ("Answer:\n42", 42),
        ("the answer is five, as 2 + 3 = 5", 5),
        ("#### 18\nbye 7", 18),
        ("#### 18\n#### 19", 19),
        (r"\boxed{7} and then 8", 7),
        (r"\boxed{x = 7}", 7),
        (r"\boxed{5 \text{ km}}", 5),
        (r"\boxed{90^\circ}", 90),
        (r"\boxed{12 \text{ cm}^2}", 12),
        (r"\boxed{-\frac{3}{4}}", Fraction(-3, 4)),
        (r"\boxed{1.5 \times 10^{3}}", 1500),
        (r"\boxed{2 + 3 = 5}", 5),
        (r"\boxed{\$1,234.50}", Fraction(123450, 100)),
        ("The answer is 5, or 5.", 5),
        (r"\boxed{\frac{1}{3}} so #### 9, the answer is 10", Fraction(1, 3)),
        ("the area is 12 m^2", 12),
        ("the volume is 12 cm^{3}", 12),
        ("12 liters of H2O", 12),
        ("1/0 or 3", 3),
        ("the answer is –5", -5),
        (r"\boxed{–\frac{1}{2}}", Fraction(-1, 2)),
        ("the answer is $–5$", -5),
        ("the answer is －5", -5),
        ("1.5e–3", Fraction(15, 10_000)),
        ("pages 3–5", 5),
        ("10 – 5", 5),
        ("10 –5", 5),
        ("between $3$–$5$", 5),
        ("from 50%–60%", 60),
        ("it was 7\n–5 in the end", -5),
        ("The answer is 2^10 = 1024.", 1024),
        ("The answer is the 5^{th}", 5),
        ("the angle is $90^\\circ$", 90),
    ],
)
def test_final_number_reads_what_people_write(text: str, value: int | Fraction) -> None:
    number = final_number(text)

    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none at all",
        r"2 + 2 = 4 \boxed{\text{no solution}}",
        "4 #### none",
        r"\boxed{1, 2, 3}",
        r"\boxed{(3,4)}",
        r"\boxed{3 \text{ or } 4}",
        r"\boxed{x = 1, y = 2}",
        "#### 5 or 6",
        "The answer is 1, 2 or 3. I counted 4.",
        r"\boxed{2\sqrt{3}}",
        r"\boxed{\frac{\pi}{4}}",
        r"\boxed{2^{10}}",
        r"\boxed{x^2+3}",
        r"\boxed{12{,}5 3}",
        r"\boxed{x \le 3}",
        "1e99999999",
        "9" * 500,
        "12\n" + "9" * 401,
        "1/0 after 5, so 7/0",
        "7, and the answer is 1/0",
        r"\boxed{7, 1/0}",
        "The answer is 2^10.",
        "7, so #### 2^{10}",
        "we get 7, so x = 2^10",
        "The answer is ±5.",
        r"The answer is $\pm 5$",
        "The answer is +/-5",
        "x = 3, so x = ±5",
        r"The answer is \sqrt{16}.",
        "The answer is 3 + 4",
        r"The answer is $3 \times 4$",
        "The answer is 3–5",
        "The answer is 10 – 5",
        "The answer is 10 –5",
    ],
)
def test_final_number_finds_none_where_none_is_stated(text: str) -> None:
    assert final_number(text) is None


@pytest.mark.parametrize(
    "text", ["4 apples", "about 4", "", "x", "1 2", "4-", "#### 4", "1,23", "nan"]
)
def test_a_truth_that_is_not_wholly_a_number_is_none(text: str) -> None:
    assert whole_number(text) is None


@given(st.integers(-(10**30), 10**30), st.sampled_from(["{}", "{:,}", r"\boxed{{{}}}", "is {}."]))
def test_every_integer_survives_every_way_to_write_it(value: int, form: str) -> None:
    number = final_number(form.format(value))

    assert number is not None
    assert number.value == value
    assert number.is_integer


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_exactly_as_it_is_written(value: float) -> None:
    number = whole_number(repr(value))

    assert number is not None
    assert number.value == Fraction(repr(value))


@pytest.mark.parametrize(
    ("answer", "truth", "is_equal"),
    [
        ("10000001", "10000000", False),  # within 1e-6 of each other, yet different integers
        ("1000", "1,000", True),
        ("4.0", "4", True),
        ("0.333333", "1/3", True),
        ("0.3333", "1/3", False),
        ("0.1", "1/10", True),
        ("3.14159", "3.1415926", True),
        ("3.14", "3.1415926", False),
        ("-0.5", "0.5", False),
        ("1e-9", "0.0", False),
    ],
)
def test_equality_is_exact_for_integers_and_rounds_decimals(
    answer: str, truth: str, is_equal: bool
) -> None:
    left, right = whole_number(answer), whole_number(truth)

    assert left is not None
    assert right is not None
    assert left.equals(right) is is_equal


@given(st.text(max_size=300))
def test_no_text_makes_extraction_fail(text: str) -> None:
    number = final_number(text)

    assert number is None or isinstance(number.value, Fraction)


def test_the_last_closed_box_counts_and_its_braces_balance() -> None:
    assert last_boxed(r"\boxed{1} then \boxed{\frac{a}{b}} then \boxed{2") == r"\frac{a}{b}"
    assert last_boxed("no box") is None
    assert last_boxed(r"\fbox{3}") == "3"
    assert last_boxed(r"\boxed{\boxed{1} + 2}") == "1"


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "unit",
    [
        *("\\boxed{", "\\frac{ ", "1,234", "1 / ", "answer is ", "#### ", "{", "-", "1e", "$ "),
        *("^ ", "= ,", "=", ", ", "1,", "1 or ", "or ", "!", "! ", "!*", "5! ", "5!", "± ", "1 + "),
    ],
)
def test_repetition_loops_of_a_degenerate_model_are_read_in_linear_time(unit: str) -> None:
    # 64 KiB of any of these would take a backtracking pattern minutes.
    text = unit * (65_536 // len(unit))

    for completion in (text, f"\\boxed{{1 {text}}}", f"#### 1{text}", f"#### 1 =^{' ' * 65_536}"):
        number = final_number(completion)
        assert number is None or number.value >= 0


@pytest.mark.timeout(30)
def test_an_open_fraction_followed_by_blanks_is_read_in_linear_time() -> None:
    number = final_number("7 \\frac{" + " " * 65_536)

    assert number is not None
    assert number.value == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{3x}", None),
        (r"\boxed{3 x}", None),
        (r"\boxed{3xy}", None),
        (r"\boxed{3 \cdot x}", None),
        (r"\boxed{2\theta}", None),
        ("#### 3x", None),
        ("the answer is 3x.", None),
        ("we get 4, so it is 3x", "4"),
        (r"\boxed{3 m}", "3"),
        (r"\boxed{3m}", "3"),
        (r"\boxed{3\text{ cm}}", "3"),
        ("the answer is 3 a day", "3"),
        ("12 apples", "12"),
        ("5km", "5"),
    ],
)
def test_a_coefficient_is_not_the_value_of_its_term(text: str, expected: str | None) -> None:
    number = final_number(text)

    assert (None if number is None else str(number)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 5!", "5"),
        ("The answer is 5!! I checked it.", "5"),
        ("**The answer is 5!**", "5"),
        ("The answer is **5!**\nBye", "5"),
        ("<answer>The answer is 5!</answer>", "5"),
        ("The answer is 5! - I hope this helps", "5"),
        ("The answer is $5$!", "5"),
        (r"\boxed{5\!}", "5"),  # a thin space
        ("so we have 5! Bye", "5"),
        (r"\boxed{5!}", None),
        (r"\boxed{(5)!}", None),
        ("#### 5!", None),
        ("The answer is $5!$.", None),
        (r"The answer is \(5!\).", None),
        ("The answer is 5!/3!", None),
        ("The answer is 5! * 2", None),
        ("The answer is 5! = 120!", "120"),
        ("7, so n = $5!$", None),
    ],
)
def test_an_exclamation_mark_is_a_factorial_unless_it_ends_a_sentence(
    text: str, expected: str | None
) -> None:
    number = final_number(text)

    assert (None if number is None else str(number)) == expected


def test_a_list_with_spaces_of_latex_and_a_power_of_e_are_no_single_number() -> None:
    for text in (r"100,\ 200", r"1,\;234,\;567", "2e^2-1", "3e^{2}+1"):
        assert whole_number(text) is None, text
        assert final_number(rf"The answer is \boxed{{{text}}}") is None, text
    assert final_number(r"The answer is $100,\ 200$.") is None
    assert final_number(r"\boxed{1,\!234}") == final_number("1234")


@pytest.mark.parametrize(("text", "value"), [("–5", -5), ("－5", -5), ("3–5", None), ("5!", None)])
def test_a_truth_may_have_a_dash_for_its_minus(text: str, value: int | None) -> None:
    number = whole_number(text)

    assert (None if number is None else number.value) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\boxed{- 5}", -5),
        (r"\boxed{-\ 5}", -5),
        (r"\boxed{− 5}", -5),
        (r"\boxed{-{5}}", -5),
        (r"\boxed{-(-5)}", 5),
        (r"\boxed{(- 5)}", -5),
        (r"\boxed{- \frac12}", Fraction(-1, 2)),
        (r"\boxed{- \$5}", -5),
        (r"\boxed{x = - 5}", -5),
        ("#### - 5", -5),
        ("**Answer:** - 5", -5),
        ("The answer is $- 5$.", -5),
        ("So x = - 5", -5),
        ("Answer:\n- 5", 5),
        ("The answers are\n- 4\n- 5", 5),
        ("10 - 5", 5),
        ("a - b is - 5", 5),
    ],
)
def test_a_minus_that_is_set_apart_is_a_sign_where_an_answer_begins(
    text: str, value: int | Fraction
) -> None:
    number = final_number(text)

    assert number is not None
    assert number.value == value


@pytest.mark.parametrize("text", [r"\boxed{x - 5}", r"\boxed{x-5}", r"\boxed{x - (5)}"])
def test_a_box_with_a_difference_states_no_number(text: str) -> None:
    assert final_number(text) is None
