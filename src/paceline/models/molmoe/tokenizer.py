"""Text and image tokens of MolmoE: a `tokenizer.json`, and how a request is laid out."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

from paceline.errors import ModelError, PromptError

END_OF_TEXT = "<|endoftext|>"
IMAGE_TOKENS = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>")
UNKNOWN = "<unk>"
ROLES = ("User:", "Assistant:")


class MolmoTokenizer:
    """Wraps a `tokenizers.Tokenizer`. Ids of special tokens come from it, never from a constant.

    `limit` is the number of input embeddings of the model; an id at or beyond it is an error. `start` is the token that
    every request begins with, by default <|endoftext|>.
    """

    def __init__(self, tokenizer: Tokenizer, limit: int, start: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        self.end_of_text = self._special(END_OF_TEXT)
        self.start = self.end_of_text if start is None else start
        self.image_start, self.image_end, self.image_patch, self.image_column, image = (
            self._special(token) for token in IMAGE_TOKENS
        )
        # No question may hold these: it could then forge the layout of an image.
        self._reserved = {
            self.end_of_text: END_OF_TEXT,
            self.image_start: IMAGE_TOKENS[0],
            self.image_end: IMAGE_TOKENS[1],
            self.image_patch: IMAGE_TOKENS[2],
            self.image_column: IMAGE_TOKENS[3],
            image: IMAGE_TOKENS[4],
        }

    def _special(self, token: str) -> int:
        index = self.tokenizer.token_to_id(token)
        if index is None:
            raise ModelError(f"tokenizer: got no token {token}, expected it among the special tokens")
        if index >= self.limit:
            raise ModelError(
                f"tokenizer: {token} is {index}, but the model has {self.limit} input embeddings"
            )
        return index

    def prompt_tokens(self, question: str) -> list[int]:
        """Ids of the text part, " User: {question} Assistant:".

        Raises PromptError if the question is empty or holds a special token.
        """
        if not isinstance(question, str) or not question.strip():
            raise PromptError(f"prompt: got {question!r}, expected a question with at least one character")
        ids = self.tokenizer.encode(f" User: {question} Assistant:", add_special_tokens=False).ids
        forged = sorted({self._reserved[index] for index in ids if index in self._reserved})
        if forged:
            raise PromptError(f"prompt: got the special tokens {forged} inside the question; remove them")
        if max(ids) >= self.limit:
            raise ModelError(f"tokenizer: id {max(ids)}, but the model has {self.limit} input embeddings")
        return ids

    def image_tokens(self, overview_side: int, grid: tuple[int, int]) -> list[int]:
        """Ids of the image part: overview rows, then the grid's rows, each ended by a column token.

        `overview_side` is the number of tokens along a side of the overview, `grid` the (rows, columns) of
        the high-resolution grid. The n-th <im_patch> belongs to the n-th token of the overview, then of the grid.
        """
        overview_row = [self.image_patch] * overview_side + [self.image_column]
        grid_row = [self.image_patch] * grid[1] + [self.image_column]
        overview = [self.image_start, *overview_row * overview_side, self.image_end]
        return [*overview, self.image_start, *grid_row * grid[0], self.image_end]

    def layout(self, overview_side: int, grid: tuple[int, int], question: str | Sequence[int]) -> list[int]:
        """All ids of a request: <|endoftext|> (which serves as start token), the image, the text.

        `question` is a question or what `prompt_tokens` made of it.
        """
        text = self.prompt_tokens(question) if isinstance(question, str) else question
        return [self.start, *self.image_tokens(overview_side, grid), *text]

    @staticmethod
    def layout_length(overview_side: int, grid: tuple[int, int], prompt_tokens: int) -> int:
        """Number of ids in the layout, computed without making them."""
        return 5 + overview_side * (overview_side + 1) + grid[0] * (grid[1] + 1) + prompt_tokens

    def answer_tokens(self, answer: str) -> list[int]:
        """Ids of an answer as the model generates it, the end included: for training and scoring."""
        return [*self.tokenizer.encode(f" {answer}", add_special_tokens=False).ids, self.end_of_text]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out, no space at the ends."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def save(self, path: Path) -> None:
        """Write as `tokenizer.json`."""
        self.tokenizer.save(str(path))

    @classmethod
    def load(cls, path: Path, limit: int) -> "MolmoTokenizer":
        """Read a `tokenizer.json`."""
        if not path.is_file():
            raise ModelError(f"{path}: no tokenizer there, expected a tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for damaged files
            raise ModelError(f"{path}: not a tokenizer ({error})") from error
        return cls(tokenizer, limit)


def word_tokenizer(words: Iterable[str]) -> Tokenizer:
    """A word-level tokenizer for a closed vocabulary: lower case, split at spaces and punctuation.

    The special tokens come first, then `words` in their order, each once; other words become <unk>.

    >>> word_tokenizer(["how", "many", "?"]).encode("How many dogs?").tokens
    ['how', 'many', '<unk>', '?']
    """
    special = (END_OF_TEXT, UNKNOWN, *IMAGE_TOKENS, *ROLES)
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys((*special, *words)))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer
