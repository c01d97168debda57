import random
from pathlib import Path

import pytest

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.records import GradeStatus, Message, Prompt
from mlflow_rlrisk.verifiers import VerifierPool, load_verifier
from mlflow_rlrisk.verifiers.calls import tagged_answer
from tests.verifiers.dialect_rewards.judging import judge

FOLDER = Path(__file__).parent / "dialect_rewards"
FILE = FOLDER / "rewards.py"
DIALECT_OF = {
    "trl_reward": "trl",
    "trl_async_reward": "trl",
    "compute_score": "verl",
    "compute_scores": "verl",
    "reward_func": "openrlhf",
    "rubric_messages": "verifiers",
    "rubric_text": "verifiers",
    "rubric_group": "verifiers",
    "rubric": "verifiers",
    "ArithmeticTask": "verifiers-v1",
    "ArithmeticTask.correct": "verifiers-v1",
    "v1_reward": "verifiers-v1",
    "SwiftReward": "ms-swift",
    "SwiftRequests": "ms-swift",
    "dataset.score_answer": "reasoning-gym",
    "ProceduralDataset.score_answer": "reasoning-gym",
    "NumberVerifier": "open-instruct",
    "metric": "evaluate",
    "plain": "plain",
}


def completions() -> list[str]:
    """200 texts, some without a number, some with a wrong one."""
    rng = random.Random(0)
    texts = []
    for index in range(200):
        number = rng.choice(["17", "17", "3", "-17", None])
        texts.append(f"case {'x' * (index % 7)}" + ("" if number is None else f" it is {number}."))
    return texts


TEXTS = completions()
EXPECTED = [judge(text, "17") for text in TEXTS]
ROW = {"question": "9+8=", "answer": "17", "data_source": "own", "metadata": {"kind": "sum"}}
PROMPT = Prompt(id="p", content="9+8=", truth="17", columns=ROW)
CHAT = Prompt(
    id="p",
    content=(Message(role="system", content="be brief"), Message(role="user", content="9+8=")),
    truth="17",
    columns=ROW,
)


@pytest.mark.parametrize("name", DIALECT_OF)
def test_the_reward_of_every_dialect_grades_the_same_200_completions_alike(name: str) -> None:
    with VerifierPool(f"{FILE}:{name}", timeout_s=60.0) as pool:
        assert pool.verifier.dialect == DIALECT_OF[name]
        assert pool.problems([PROMPT, CHAT]) == [None, None]
        for prompt in (PROMPT, CHAT):
            grades = pool.grade_completions(prompt, TEXTS)

            assert {grade.reason for grade in grades} == {None}
            assert [grade.reward for grade in grades] == pytest.approx(EXPECTED, abs=1e-7)


@pytest.mark.parametrize("spec", ["evaluate:{}/own_metric", "{}/own_metric/own_metric.py"])
def test_a_local_evaluate_module_grades_alike(spec: str) -> None:
    pytest.importorskip("evaluate")

    with VerifierPool(f"{spec.format(FOLDER)}#own_metric", timeout_s=120.0) as pool:
        grades = pool.grade_completions(PROMPT, TEXTS)

    assert pool.verifier.dialect == "evaluate"
    assert [grade.reward for grade in grades] == EXPECTED


def test_a_score_among_several_must_be_named() -> None:
    pytest.importorskip("evaluate")
    with VerifierPool(f"evaluate:{FOLDER}/own_metric#f1", timeout_s=120.0) as pool:
        (grade,) = pool.grade_completions(PROMPT, ["17"])

    assert grade.status is GradeStatus.FAILED
    assert "without 'f1'; its keys: own_metric, count" in str(grade.reason)


def test_the_class_of_an_evaluate_module_is_constructed() -> None:
    pytest.importorskip("evaluate")
    spec = f"{FOLDER}/own_metric/own_metric.py:OwnMetric#own_metric"

    with VerifierPool(spec, timeout_s=120.0) as pool:
        grades = pool.grade_completions(PROMPT, ["17", "no"])

    assert [grade.reward for grade in grades] == [1.0, 0.0]


def test_a_named_dialect_wins_over_what_the_signature_tells(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "def grade(completion, prediction=None, label=None, **kwargs):\n"
        "    return 1.0 if completion == 'yes' else 0.0\n"
        "def by_place(a, b, c):\n"
        "    return [float(a[0].endswith(c[0]))]\n"
    )

    assert load_verifier(f"{path}:grade").dialect == "open-instruct"
    assert load_verifier(f"plain:{path}:grade").dialect == "plain"
    with VerifierPool(f"openrlhf:{path}:by_place") as pool:
        grades = pool.grade_completions(PROMPT, ["17", "18"])
    assert [grade.reward for grade in grades] == [1.0, 0.0]


def test_dialect_and_part_change_the_digest_of_the_verifier() -> None:
    spec = f"{FILE}:compute_score"

    digests = {load_verifier(s).digest for s in (spec, f"{spec}#acc", f"verl:{spec}")}

    assert len(digests) == 3


def test_a_part_of_a_reward_in_several_parts_can_be_chosen() -> None:
    with VerifierPool(f"{FILE}:compute_score#acc") as pool:
        grades = pool.grade_completions(PROMPT, ["17", "3"])

    assert [grade.reward for grade in grades] == [1.0, 0.0]


def test_a_part_of_a_reward_that_is_one_number_is_no_reward(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def whole(completion, truth):\n    return float(completion == truth)\n")

    with VerifierPool(f"{path}:whole#format") as pool:
        (grade,) = pool.grade_completions(PROMPT, ["17"])

    assert grade.reward is None
    assert grade.reason == "returned float 1.0, no reward with a part 'format'"


def test_a_part_without_a_value_leaves_no_sum(tmp_path: Path) -> None:
    # What was left was paid: an accuracy that could not be told became a zero.
    path = tmp_path / "own.py"
    path.write_text(
        "def parts(completion, truth):\n"
        "    return {'format': 0.5, 'accuracy': None if completion == '?' else 1.0}\n"
    )

    with VerifierPool(f"{path}:parts") as pool:
        told, untold = pool.grade_completions(PROMPT, ["17", "?"])

    assert (told.reward, untold.reward) == (1.5, None)
    assert "part 'accuracy' is None" in str(untold.reason)


@pytest.mark.parametrize(
    ("weights", "said"), [("[1.0]", "2 functions and 1 weight"), ("[1.0, 1e999]", "weight of inf")]
)
def test_a_rubric_whose_weights_fit_no_sum_is_refused(
    tmp_path: Path, weights: str, said: str
) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "def right(completion, answer, **kwargs):\n    return 1.0\n"
        f"class Both:\n    funcs, weights = [right, right], {weights}\n"
        "both = Both()\n"
    )

    with pytest.raises(VerifierError, match=said):
        load_verifier(f"{path}:both")


@pytest.mark.parametrize(("weight", "part"), [("0.0", ""), ("1.0", "#format")])
def test_a_rubric_that_would_add_up_something_else_is_refused(
    tmp_path: Path, weight: str, part: str
) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "def right(completion, answer, **kwargs):\n    return 1.0\n"
        f"class Both:\n    funcs, weights = [right], [{weight}]\n"
        "both = Both()\n"
    )

    with pytest.raises(VerifierError, match="is a Rubric, whose functions are added up"):
        load_verifier(f"{path}:both{part}")


@pytest.mark.parametrize(
    ("spec", "seen"),
    [
        ("verl:{}:trl_reward", None),
        ("trl:{}:plain", "completion, truth"),
        ("verl:{}:plain", "completion, truth"),
        ("openrlhf:{}:plain", "completion, truth"),
        ("plain:{}:compute_score", "data_source, solution_str, ground_truth, extra_info"),
        ("open-instruct:{}:plain", "completion, truth"),
        ("verifiers-v1:{}:plain", "completion, truth"),
        ("ms-swift:{}:metric", "predictions, references"),
    ],
)
def test_a_wrong_dialect_says_which_parameters_were_seen(spec: str, seen: str | None) -> None:
    text = spec.format(FILE)
    if seen is None:  # it has **kwargs and can be called, but nothing fills its own parameters
        with VerifierPool(text) as pool:
            (problem,) = pool.problems([PROMPT])
        assert problem == "parameter 'prompts' is nothing that verl passes"
        return
    dialect = text.partition(":")[0]
    with pytest.raises(VerifierError, match=f"of {dialect}: parameters seen: {seen}; needed is"):
        load_verifier(text)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("evaluate:", "names no module"),
        (
            __file__.replace("test_dialects", "conftest"),
            r"needed is a name, path/to/file.py:function",
        ),
        ("evaluate:./nowhere", "there is no"),
        (f"evaluate:{Path(__file__).parent}", "a folder NAME with NAME.py"),
        ("verl:nothing", "neither a .py file nor a module|No module named|cannot be loaded"),
    ],
)
def test_specs_that_name_nothing_are_refused(spec: str, message: str) -> None:
    with pytest.raises(VerifierError, match=message):
        load_verifier(spec)


def test_parts_without_a_total_are_added_up_where_the_dialect_is_our_own(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "def parts(completion, truth):\n"
        "    return {'right': float(completion == truth), 'format': 0.25}\n"
        "def named(completion, truth):\n"
        "    return {'score': float(completion == truth), 'note': 'text'}\n"
    )

    with VerifierPool(f"{path}:parts") as pool:
        summed = pool.grade_completions(PROMPT, ["17", "3"])
    with VerifierPool(f"{path}:named") as pool:
        named = pool.grade_completions(PROMPT, ["17", "3"])

    assert [grade.reward for grade in summed] == [1.25, 0.25]
    assert [grade.reward for grade in named] == [1.0, 0.0]


CONSUMING = """
def all_named(text, words):
    for word in text.split():
        if word not in words:
            return 0.0
        words.remove(word)
    return float(not words)

def trl(prompts, completions, words, **columns):
    return [all_named(text, mine) for text, mine in zip(completions, words)]
class Swift:
    def __call__(self, completions, words, **columns):
        return trl(None, completions, words)
def plain(completion, truth):
    return all_named(completion, truth)
def compute_score(data_source, solution_str, ground_truth, extra_info):
    return all_named(solution_str, ground_truth)
def reward_func(queries, prompts, labels):
    return [all_named(queries[0].removeprefix(prompts[0]), labels[0])]
def rubric(completion, words, state):
    return all_named(completion, words)
def rubric_of_truth(completion, target, state):
    return all_named(completion, target)
def v1(trace):
    return all_named(trace.last_reply, trace.task.data.words)
def score_answer(answer, entry):
    return all_named(answer, entry["words"])
"""


@pytest.mark.parametrize(
    "name",
    [
        "trl",
        "Swift",
        "plain",
        "compute_score",
        "reward_func",
        "rubric",
        "rubric_of_truth",
        "v1",
        "score_answer",
    ],
)
def test_a_reward_that_uses_up_what_it_is_given_grades_each_completion_as_if_it_were_alone(
    tmp_path: Path, name: str
) -> None:
    # Right answers were graded 0 behind another one: one list stood in the rows of all.
    path = tmp_path / "consuming.py"
    path.write_text(CONSUMING)
    words = ["red", "blue"]
    prompt = Prompt(id="p", content="Colours?", truth=words, columns={"words": words})
    texts = ["red blue", "blue red", "red", "red green", "red blue"]

    with VerifierPool(f"{path}:{name}") as pool:
        together = pool.grade_completions(prompt, texts)

    assert [grade.reason for grade in together] == [None] * 5
    assert [grade.reward for grade in together] == [
        float(sorted(text.split()) == sorted(words)) for text in texts
    ]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>5</answer> Or is it <answer>6", "5"),
        ("<answer>4</answer><answer> 5\n</answer> done", "5"),
        ("<answer>5", "<answer>5"),
        ("5", "5"),
    ],
)
def test_the_last_answer_that_is_closed_is_shown_to_a_dataset_of_reasoning_gym(
    completion: str, answer: str
) -> None:
    assert tagged_answer(completion) == answer
