"""Students of text, `bag_D` and `transformer_D_L`, which read token ids, and the hashing that makes ids of texts."""

import re
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuition.errors import UserError
from tuition.models.named import NamedModel
from tuition.models.readers import TextReader

BUCKETS = 2**14
"""Rows of an embedding table: a step's time on a CPU grows with them, because the optimizer goes through them all."""

PADDING = 0


class Hashing(TextReader):
    """Texts to token ids by a stable hash (CRC-32): no vocabulary is learned or saved. Belongs to a model, as its
    preprocessing does.

    Tokens are the words of the text in lower case and single signs; then, for each n of `ngrams`, the n characters
    long parts of every <word> of more than one (Bojanowski et al. 2017, arXiv 1607.04606). So a word that was never
    seen shares parts with those that were. Words come first, and what is beyond `length` tokens is cut off.

    Args:
        length: tokens a text; shorter ones are padded with 0 at their end.
        buckets: ids run from 1 to buckets - 1; different tokens may share one.
        ngrams: lengths of the parts of words; none for words alone.
    """

    def __init__(self, length: int = 64, buckets: int = BUCKETS, ngrams: Sequence[int] = ()) -> None:
        super().__init__()
        self.length, self.buckets, self.ngrams, self.padding = length, buckets, tuple(ngrams), PADDING

    def settings(self) -> dict[str, object]:
        """What makes an equal one: Hashing(**settings)."""
        return {"length": self.length, "buckets": self.buckets, "ngrams": list(self.ngrams)}

    def read(self, texts: Sequence[str]) -> Tensor:
        """Token ids (n, length) int32.

        Raises:
            UserError: a text without a word or a sign.
        """
        known: dict[str, tuple[int, list[int]]] = {}
        rows = torch.full((len(texts), self.length), PADDING, dtype=torch.int32)
        for row, text in enumerate(texts):
            words = re.findall(r"\w+|[^\w\s]", text.lower())
            if not words:
                raise UserError(f"text {row} is empty; leave it out.")
            for word in words:
                if word not in known:
                    known[word] = self._id(word), [self._id(part) for part in self._parts(word)]
            ids = [known[word][0] for word in words]
            if self.ngrams:
                ids += [part for word in words for part in known[word][1]]
            ids = ids[: self.length]
            rows[row, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
        return rows

    def _id(self, token: str) -> int:
        return 1 + zlib.crc32(token.encode("utf-8", "surrogatepass")) % (self.buckets - 1)

    def _parts(self, word: str) -> list[str]:
        marked = f"<{word}>"
        return [marked[i : i + n] for n in self.ngrams for i in range(len(marked) - n + 1) if n < len(marked)]


class Bag(NamedModel):
    """The mean of the tokens' embeddings (n, width), one hidden layer: ids (n, length) -> (n, num_classes)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.hashing = Hashing(length=256, ngrams=(3,))
        self.embedding = nn.EmbeddingBag(self.hashing.buckets, width, mode="mean", padding_idx=PADDING)
        _begin(self.embedding)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU())
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.classifier(self.hidden(self.embedding(ids.long())))  # ONNX export does not take int32

    def own_preprocess(self) -> nn.Module | None:
        return self.hashing


class Transformer(NamedModel):
    """`depth` encoder blocks of `width` over words, learned positions, mean over the words: as `Bag`.

    Norms come first in a block (Xiong et al. 2020, arXiv 2002.04745), heads are 32 wide, and there is no dropout.
    """

    def __init__(self, width: int, depth: int, num_classes: int) -> None:
        super().__init__()
        self.hashing = Hashing()
        self.embedding = nn.Embedding(self.hashing.buckets, width, padding_idx=PADDING)
        _begin(self.embedding)
        self.position = nn.Parameter(torch.randn(self.hashing.length, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        words = (ids != PADDING).float()
        attended = ids != PADDING
        attended[:, 0] = True  # so that a text of padding alone, such as a blank example, gives numbers
        x = self.embedding(ids) + self.position
        for block in self.blocks:
            x = block(x, attended[:, None, None])
        pooled = (self.norm(x) * words[:, :, None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1)
        return self.classifier(pooled)

    def own_preprocess(self) -> nn.Module | None:
        return self.hashing


def _begin(embedding: nn.Embedding | nn.EmbeddingBag) -> None:
    """Small, so that tokens never seen in training hardly count; not 0, because RKD learns nothing from equal rows."""
    nn.init.normal_(embedding.weight, std=0.02)
    with torch.no_grad():
        embedding.weight[PADDING] = 0.0


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 32)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """x (n, length, width); attended (n, 1, 1, length) says which positions may be looked at."""
        query, key, value = self.attention(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attention = F.scaled_dot_product_attention(query, key, value, attended)
        x = x + self.mix(attention.transpose(1, 2).flatten(2))
        return x + self.feed(self.norm2(x))
