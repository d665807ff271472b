"""The embedded model's tokenizer."""

from tokenizers import Tokenizer, normalizers

from paceline.models.molmoe.options import TINY
from paceline.models.molmoe.tokenizer import MolmoTokenizer, word_tokenizer
from paceline.tasks.questions import VOCABULARY


def tiny_tokenizer() -> MolmoTokenizer:
    """Lower case, question marks dropped, one token per word of the digits task."""
    tokenizer: Tokenizer = word_tokenizer(VOCABULARY)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("?", " ")])
    return MolmoTokenizer(tokenizer, limit=TINY.vocabulary)
