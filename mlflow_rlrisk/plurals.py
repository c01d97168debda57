"""A number and its word: 1 prompt, 2 prompts.

Of ``3 of 1 prompts`` the number before the word is not what is counted: it stays as it is.
"""


def counted(number: float, one: str, many: str = "", spec: str = "") -> str:
    """``number`` with the word for as many.

    Args:
        number: What was counted.
        one: The word, or the words up to the verb, for 1.
        many: The same for every other number; ``one`` and an s if left out.
        spec: How the number is formatted, such as ``,``.
    """
    return f"{number:{spec}} {one if number == 1 else many or one + 's'}"
