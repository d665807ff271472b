"""The metrics of the question sets: worked examples from their definitions, computed by hand, and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import TaskError
from paceline.tasks.metrics.anls import anls, levenshtein
from paceline.tasks.metrics.exact import exact_match
from paceline.tasks.metrics.multiple_choice import chosen_option, multiple_choice_accuracy, option_lines
from paceline.tasks.metrics.open_answer import open_accuracy
from paceline.tasks.metrics.registry import METRICS, Reference, make_reference, score_reply
from paceline.tasks.metrics.relaxed import relaxed_accuracy
from paceline.tasks.metrics.vqa import CONTRACTIONS, normalize, vqa_accuracy
from paceline.tasks.metrics.yes_no import yes_no_accuracy, yes_no_summary, yes_or_no

TEXTS = st.text(max_size=20) | st.text(alphabet="aAbBnot01.,'-? ", max_size=20)


# -- VQA accuracy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("a man", "man"),
        ("An apple and the pear", "apple and pear"),
        ("two", "2"),
        ("None", "0"),
        ("ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),  # two are missing
        ("couldn'tve", "couldn't've"),
        ("its hell", "its hell"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("red,white", "red white"),
        ("red, white", "red white"),
        ("t-shirt", "t shirt"),
        ("t-shirt - blue", "tshirt blue"),  # a mark beside a space disappears everywhere
        ("1,000-2,000", "10002000"),  # a comma between digits makes all marks disappear
        ("3.5", "3.5"),
        ("3.", "3"),
        ("p.m.", "pm"),
        (".5 .", ".5"),
        ("what?\n yes!\t", "what yes"),
        ("", ""),
    ],
)
def test_answers_are_normalized_as_in_the_vqa_evaluation(text, expected):
    assert normalize(text) == expected


def test_contractions_are_recognised_by_one_missing_apostrophe():
    assert CONTRACTIONS["yall'd've"] == CONTRACTIONS["y'alld've"] == CONTRACTIONS["y'all'dve"] == "y'all'd've"
    assert not CONTRACTIONS.keys() & set(CONTRACTIONS.values())
    assert not CONTRACTIONS.keys() & {"its", "hell", "shell", "were", "well", "ill", "shed", "lets"}


@pytest.mark.parametrize(("given_by", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_leaves_every_person_out_once(given_by, expected):
    # m of 10: those m see m - 1 others, the 10 - m see m; e.g. m = 2: (2 * 1/3 + 8 * 2/3) / 10 = 0.6
    answers = ["blue"] * given_by + [f"other {i}" for i in range(10 - given_by)]
    assert vqa_accuracy("Blue.", answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["cat"], 1),
        (["dog"], 0),
        (["cat", "cat"], 1),
        (["cat", "dog"], 0.5),  # only the second person sees another who said cat
        (["cat", "cat", "dog"], (1 / 2 + 1 / 2 + 1) / 3),
        (["cat", "cat", "cat", "dog"], (2 / 3 * 3 + 1) / 4),
    ],
)
def test_vqa_accuracy_of_few_answers(answers, expected):
    assert vqa_accuracy("the cat", answers) == pytest.approx(expected)


@given(TEXTS)
def test_normalizing_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


# -- ANLS


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("flaw", "lawn", 2), ("saturday", "sunday", 3)],
)
def test_edit_distance(first, second, expected):
    assert levenshtein(first, second) == levenshtein(second, first) == expected


@pytest.mark.parametrize(
    ("reply", "answers", "expected"),
    [
        ("ITC  Limited ", ["itc limited"], 1),
        ("itc limitd", ["itc limited"], 1 - 1 / 11),
        ("ab", ["abc", "xyz"], 2 / 3),
        ("abcd", ["abxy"], 0),  # half is wrong: not below the threshold
        ("abcde", ["abcxy"], 0.6),
        ("ab", ["abcd"], 0),
        ("", [""], 1),
        ("", ["a"], 0),
        ("a long reply that says much more than was asked", ["much"], 0),
    ],
)
def test_anls(reply, answers, expected):
    assert anls(reply, answers) == pytest.approx(expected)


# -- Relaxed accuracy


@pytest.mark.parametrize(
    ("reply", "answer", "expected"),
    [
        ("100", "100", 1),
        ("105", "100", 1),
        ("95", "100", 1),
        ("105.1", "100", 0),
        ("94.9", "100", 0),
        ("-104", "-100", 1),
        ("100", "-100", 0),
        ("12%", "0.12", 1),
        ("12%", "12", 0),
        ("12%", "12.5%", 1),
        ("1e3", "1000", 1),
        ("1,000", "1000", 0),  # separators make it a text
        ("1,000", "1,000", 1),
        ("100 dollars", "100", 0),
        ("0", "0.0", 1),
        ("0.01", "0", 0),
        ("Male", "male ", 1),
        ("males", "male", 0),
        ("nan", "nan", 1),
        ("inf", "1", 0),
        ("2.", "2", 1),
        (".5", "0.5", 1),
        ("", "0", 0),
    ],
)
def test_relaxed_accuracy(reply, answer, expected):
    assert relaxed_accuracy(reply, [answer]) == expected


def test_relaxed_accuracy_takes_the_best_of_several_answers():
    assert relaxed_accuracy("10", ["x", "10.2"]) == 1


# -- Multiple choice

CHOICES = ["cat", "dog", "black cat", "mouse"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", "B"),
        (" b ", "B"),
        ("(B)", "B"),
        ("[B]", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("**B**", "B"),
        ("B. dog", "B"),
        ("(B) dog", "B"),
        ("B: dog", "B"),
        ("B, because it barks", "B"),
        ("The answer is B", "B"),
        ("The answer is (B).", "B"),
        ("the answer is b.", "B"),
        ("Answer: B\nI looked closely.", "B"),
        ("The answer is B. A. would be wrong", "B"),
        ("Option B", "B"),
        ("I choose B", "B"),
        ("I choose A", "A"),
        ("A is correct", "A"),
        ("dog", "B"),
        ("Dog.", "B"),
        ("It is a dog", "B"),
        ("The answer is a dog", "B"),
        ("A dog runs", "B"),  # the article
        ("a black cat", "C"),  # the longer option, not the cat within it
        ("not A but B", "B"),
        ("It is not (A), it is (B)", "B"),
    ],
)
def test_the_option_of_a_reply(reply, expected):
    assert multiple_choice_accuracy(reply, expected, CHOICES) == 1
    assert sum(multiple_choice_accuracy(reply, letter, CHOICES) for letter in "ABCD") == 1


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "A and B",
        "A or B",
        "A, B",
        "(A) (B)",
        "B. dog or D. mouse",
        "Both A and B.",
        "The answer is A. The answer is B.",
        "dog or mouse",
        "a cat and a black cat",
        "B. cat",  # the letter of one, the text of another
        "E",  # there are four
        "It is not B",
        "a doghouse",
        "A bird on the U.S. flag",
        "I do not know",
    ],
)
def test_a_reply_that_names_no_option_or_several_scores_nothing(reply):
    assert chosen_option(reply, CHOICES) is None


def test_options_that_are_letters_themselves():
    labels = ["D", "B", "A", "F"]
    assert chosen_option("B", labels) == 1
    assert chosen_option("Option B", labels) == 1
    assert chosen_option("A", labels) == 0  # the letter was asked for
    assert chosen_option("F", labels) == 3  # no option has this letter, one has this text


def test_letters_within_the_text_of_an_option_are_not_its_letter():
    vitamins = ["vitamin B", "vitamin C", "vitamin D"]
    assert chosen_option("It is rich in vitamin C", vitamins) == 1
    assert chosen_option("Its grade is B+", ["B+", "A+"]) == 0
    assert chosen_option("It is the cat food", ["cat", "cat food"]) == 1
    assert chosen_option("same", ["same", "same"]) is None


def test_options_are_listed_with_letters():
    assert option_lines(["x", "y", "z"]) == "A. x\nB. y\nC. z"


# -- Open answers


@pytest.mark.parametrize(
    ("reply", "answer", "expected"),
    [
        ("12", "12", 1),
        ("The area is 3 * 4 = 12", "12", 1),
        ("The area is 12.004 m2.", "12", 1),
        ("The area is 12.01", "12", 0),
        ("The total is 1,200 dollars", "1200", 1),
        ("The area is 3 * 4 = 12", "3", 0),  # what comes after the last sign of a result
        ("k = 5\nThe value is 7", "5", 0),  # equations count in the last sentence only
        ("so 3, so 5, so 9", "9", 1),
        ("-3.5e2", "-350", 1),
        ("The first is 5. So the result is 7", "7", 1),
        ("It has 9 parts, so the result is 7", "9", 0),  # nine is not what is stated as the result
        ("this could be a heat pump", "heat pump", 1),
        ("heat pump", "Heat  Pump", 1),
        ("a pump", "heat pump", 0),
        ("the final cut", "the final cut", 1),
        ("the answer is x", "x", 1),
        ("the answer is wax", "x", 0),
        ("", "12", 0),
        ("", "x", 0),
        ("is .", "12", 0),
    ],
)
def test_open_answers(reply, answer, expected):
    assert open_accuracy(reply, [answer]) == expected
    assert open_accuracy(reply, ["unlikely", answer]) == expected


# -- Yes or no


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("yes", "yes"),
        ("Yes, there is.", "yes"),
        ("No", "no"),
        ("NO!", "no"),
        ("There is not a dog", "no"),
        ("There isn't a dog. Yes.", "no"),
        ("There isn’t one", "no"),
        ("Yes. But no cat.", "yes"),  # the first sentence counts
        ("yes and no", "no"),
        ("a dog", None),
        ("nothing", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_what_a_reply_says(reply, expected):
    assert yes_or_no(reply) == expected
    assert yes_no_accuracy(reply, ["Yes "]) == float(expected == "yes")


def test_the_summary_of_pope():
    replies = ["yes", "yes", "yes", "yes", "no", "no", "a dog"]
    answers = ["yes", "yes", "yes", "no", "yes", "no", "yes"]
    summary = yes_no_summary(replies, answers)
    assert summary.accuracy == pytest.approx(4 / 7)
    assert summary.precision == pytest.approx(3 / 4)
    assert summary.recall == pytest.approx(3 / 5)
    assert summary.f1 == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert summary.yes_ratio == pytest.approx(4 / 7)
    assert summary.unreadable == 1


def test_shares_of_nothing_are_zero():
    summary = yes_no_summary(["no"], ["no"])
    assert (summary.accuracy, summary.precision, summary.recall, summary.f1) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("replies", "answers", "said"),
    [
        ([], [], "got 0 replies to 0 answers"),
        (["yes"], ["yes", "no"], "got 1 replies to 2 answers"),
        (["yes"], ["maybe"], "got the answers \\['maybe'\\], expected yes or no"),
    ],
)
def test_a_summary_needs_answers(replies, answers, said):
    with pytest.raises(TaskError, match=said):
        yes_no_summary(replies, answers)


# -- All of them


def test_exact_match():
    assert exact_match(" TWO dogs", ["one", "two  dogs"]) == 1
    assert exact_match("two dogs.", ["two dogs"]) == 0


@given(
    metric=st.sampled_from(sorted(METRICS)),
    reply=TEXTS,
    answers=st.lists(TEXTS, min_size=1, max_size=10),
    choices=st.lists(TEXTS, min_size=2, max_size=5),
)
def test_scores_are_fractions(metric, reply, answers, choices):
    reference = Reference(answers=("B",), choices=tuple(choices))
    if metric not in ("multiple_choice", "mmmu"):
        reference = Reference(answers=tuple(answers))
    assert 0 <= score_reply(metric, reply, reference) <= 1


@given(
    metric=st.sampled_from(["exact", "vqa", "anls", "relaxed", "open", "mmmu"]),
    answer=TEXTS,
    count=st.integers(1, 10),
)
def test_what_everybody_answers_is_right(metric, answer, count):
    assert score_reply(metric, answer, make_reference(metric, [answer] * count)) == 1


@given(st.lists(st.text(max_size=12), min_size=2, max_size=8), st.data())
def test_the_letter_of_an_option_is_right_whatever_the_options_say(choices, data):
    letter = data.draw(st.sampled_from("ABCDEFGH"[: len(choices)]))
    reference = Reference(answers=(letter,), choices=tuple(choices))
    assert score_reply("multiple_choice", letter, reference) == 1
    assert score_reply("mmmu", f"({letter})", reference) == 1


def test_the_answer_may_be_a_letter_or_the_text_of_an_option():
    assert make_reference("multiple_choice", ["b"], ["cat", "dog"]).answers == ("B",)
    assert make_reference("mmmu", [" Dog "], ["cat", "dog"]).answers == ("B",)
    assert make_reference("multiple_choice", ["z"], [str(n) for n in range(26)]).answers == ("Z",)
    assert make_reference("mmmu", ["7", "seven"]).answers == ("7", "seven")
    assert make_reference("vqa", ["dog"], ["cat", "dog"]) == Reference(
        answers=("dog",), choices=("cat", "dog")
    )


@pytest.mark.parametrize(
    ("metric", "answers", "choices", "said"),
    [
        ("bleu", ["a"], [], "metric: got 'bleu', expected one of .*'anls'.*'vqa'"),
        ("exact", [], [], "answers: got none"),
        ("multiple_choice", ["A"], [], "choices: got none"),
        ("multiple_choice", ["A"], ["one"], "choices: got 1, expected 2 to 26"),
        ("multiple_choice", ["A", "B"], ["x", "y"], "answers: got 2, expected one option"),
        ("multiple_choice", ["C"], ["x", "y"], "answer: got 'C', expected a letter from A to B"),
        ("multiple_choice", ["x"], ["x", "x"], "the text of one option"),
        ("yes_no", ["maybe"], [], "metric yes_no expects yes or no"),
    ],
)
def test_answers_that_a_metric_cannot_use(metric, answers, choices, said):
    with pytest.raises(TaskError, match=said):
        make_reference(metric, answers, choices)
