"""Texts as the numbers that a text tower takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from imuvid.errors import UserError
from imuvid.models.towers import TextTowerConfig

TOKENIZER_NAME = "tokenizer.json"


class TextTokenizer:
    """A tokenizer of the library ``tokenizers``, which its file describes entirely.

    Args:
        description: content of a ``tokenizer.json``.
        max_tokens: length of the result.
    """

    def __init__(self, description: str, max_tokens: int):
        self.description, self.max_tokens = description, max_tokens
        self._tokenizer = Tokenizer.from_str(description)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return self._tokenizer.get_vocab_size()

    def __call__(self, text: str | None) -> np.ndarray:
        """Return int64 [max_tokens]: the tokens, then -1; nothing but -1 where there is no text, or an empty one."""
        tokens = np.full(self.max_tokens, -1, dtype=np.int64)
        if text is not None and text.strip():
            found = self._tokenizer.encode(text).ids
            tokens[: len(found)] = found
        return tokens


def load_tokenizer(config: TextTowerConfig) -> TextTokenizer | None:
    """Return what makes tokens for the text tower; None where there is no such tower.

    Raises:
        UserError: it is not to be had, says what to download where; it is damaged; or it knows more tokens than the
            tower.
    """
    if config.kind == "none":
        return None
    from transformers.utils import cached_file

    place = config.clip.tokenizer or config.clip.weights
    where = "model.text_tower.clip.tokenizer"
    if place is None:
        raise UserError(f"{where} is null, and so are the weights: give a folder or hub name with {TOKENIZER_NAME}")
    try:
        path = cached_file(place, TOKENIZER_NAME)
        assert path is not None
        description = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{where}: '{place}' is neither a local folder with {TOKENIZER_NAME} nor on the hub from here: download it"
            f" where there is a network ('hf download {place} {TOKENIZER_NAME} --local-dir DIR') and set it to DIR"
        ) from error
    try:
        tokenizer = TextTokenizer(description, config.clip.max_tokens)
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}") from error
    if tokenizer.num_tokens > config.clip.vocab_size:
        raise UserError(
            f"{path}: knows {tokenizer.num_tokens} tokens, the text tower {config.clip.vocab_size}: set"
            f" model.text_tower.clip.vocab_size={tokenizer.num_tokens}, or give the tokenizer of the weights"
        )
    return tokenizer
