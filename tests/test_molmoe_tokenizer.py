"""Token layout, written out by hand, and the tiny model's word-level tokenizer."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from paceline.errors import ModelError, PromptError
from paceline.models.molmoe.tokenizer import MolmoTokenizer, word_tokenizer

WORDS = ["how", "many", "red", "digits", "?", "3", "three"]


@pytest.fixture
def tokenizer() -> MolmoTokenizer:
    return MolmoTokenizer(word_tokenizer(WORDS), limit=64)


def tokens(tokenizer: MolmoTokenizer, ids: list[int]) -> list[str | None]:
    return [tokenizer.tokenizer.id_to_token(index) for index in ids]


def test_layout_written_out(tokenizer):
    ids = tokenizer.layout(2, (1, 3), "How many digits?")
    expected = (
        "<|endoftext|> <im_start> <im_patch> <im_patch> <im_col> <im_patch> <im_patch> <im_col> <im_end> "
        "<im_start> <im_patch> <im_patch> <im_patch> <im_col> <im_end> User: how many digits ? Assistant:"
    )
    assert tokens(tokenizer, ids) == expected.split()


@pytest.mark.parametrize(("side", "grid"), [(4, (4, 4)), (4, (10, 13)), (12, (28, 36)), (1, (1, 2))])
def test_layout_length_is_the_length(tokenizer, side, grid):
    text = tokenizer.prompt_tokens("how many?")
    ids = tokenizer.layout(side, grid, text)
    assert len(ids) == tokenizer.layout_length(side, grid, len(text))
    assert ids.count(tokenizer.image_patch) == side * side + grid[0] * grid[1]


def test_words_are_lower_cased_and_unknown_ones_marked(tokenizer):
    ids = tokenizer.prompt_tokens("How MANY purple digits?")
    assert tokens(tokenizer, ids) == ["User:", "how", "many", "<unk>", "digits", "?", "Assistant:"]


def test_answers_decode_to_words_and_lose_the_end(tokenizer):
    ids = tokenizer.answer_tokens("three red")
    assert ids[-1] == tokenizer.end_of_text
    assert tokenizer.decode(ids) == "three red"
    assert tokenizer.decode([]) == ""


def test_ids_come_from_the_file(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    again = MolmoTokenizer.load(tmp_path / "tokenizer.json", limit=64)
    assert again.layout(2, (2, 2), "how many?") == tokenizer.layout(2, (2, 2), "how many?")
    shifted = word_tokenizer(WORDS)
    shifted.add_special_tokens(["<extra>"])
    assert MolmoTokenizer(shifted, limit=64).image_patch == shifted.token_to_id("<im_patch>")


@pytest.mark.parametrize("question", ["", "   ", "\n", 3, None])
def test_empty_questions_are_refused(tokenizer, question):
    with pytest.raises(PromptError, match="expected a question"):
        tokenizer.prompt_tokens(question)


@pytest.mark.parametrize("forged", ["<im_patch>", "<|endoftext|>", "<|image|>", "<im_col>"])
def test_questions_cannot_forge_image_tokens(tokenizer, forged):
    with pytest.raises(PromptError, match="special tokens"):
        tokenizer.prompt_tokens(f"how many {forged} digits?")


def test_ids_beyond_the_embeddings_are_refused():
    with pytest.raises(ModelError, match="input embeddings"):
        MolmoTokenizer(word_tokenizer(WORDS), limit=4)
    short = MolmoTokenizer(word_tokenizer(WORDS), limit=12)
    with pytest.raises(ModelError, match="id 15, but the model has 12"):
        short.prompt_tokens("3 three")


def test_a_tokenizer_without_image_tokens_is_refused():
    plain = Tokenizer(WordLevel({"<|endoftext|>": 0, "a": 1}, unk_token="a"))
    with pytest.raises(ModelError, match="<im_start>"):
        MolmoTokenizer(plain, limit=64)


def test_damaged_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no tokenizer there"):
        MolmoTokenizer.load(tmp_path / "tokenizer.json", limit=64)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="not a tokenizer"):
        MolmoTokenizer.load(tmp_path / "tokenizer.json", limit=64)
