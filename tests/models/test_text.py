"""Token ids that never change, and models that read them."""

import re
import subprocess
import sys
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition import UserError, models
from tuition.models.text import PADDING

TEXTS = ["Sort the rows.", "Rows, sorted by their rows", "a"]


def test_ids_are_those_of_another_process():
    """Python's own hash differs from one process to the next; these are golden values."""
    ids = models.Hashing(length=12, buckets=1000, ngrams=(3,))(TEXTS)
    assert ids[0].tolist() == [1 + zlib.crc32(t) % 999 for t in (b"sort", b"the", b"rows", b".")] + [
        1 + zlib.crc32(t) % 999 for t in (b"<so", b"sor", b"ort", b"rt>", b"<th", b"the", b"he>", b"<ro")
    ]
    program = f"from tuition import models; print(models.Hashing(12, 1000, (3,))({TEXTS!r}).tolist())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(ids.tolist())


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.integers(1, 40), st.sampled_from([(), (3,), (2, 4)]))
def test_every_text_has_its_row_whatever_stands_beside_it(texts, length, ngrams):
    hashing = models.Hashing(length, 50, ngrams)
    if any(not re.search(r"\w|[^\w\s]", text.lower()) for text in texts):
        with pytest.raises(UserError, match="is empty"):
            hashing(texts)
        return
    ids = hashing(texts)
    assert (ids.shape, ids.dtype) == ((len(texts), length), torch.int32)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 50
    for text, row in zip(texts, ids, strict=True):
        assert torch.equal(hashing([text.upper().lower()])[0], hashing([text.upper().lower()])[0])
        assert torch.equal(hashing([text])[0], row)
        assert row[0] != PADDING, "words come first"
        assert bool((row.diff() != 0).any()) or len(set(row.tolist())) == 1
    assert torch.equal(hashing(ids), ids), "ids are left as they are"


def test_words_share_their_parts_and_are_not_cut_off_by_them():
    hashing = models.Hashing(length=64, ngrams=(3,))
    one, other = (set(hashing([word])[0].tolist()) - {PADDING} for word in ("sorting", "sorted"))
    assert len(one & other) == 3  # <so, sor, ort
    long = models.Hashing(length=4, ngrams=(3,))(["one two three four"])
    assert torch.equal(long, models.Hashing(length=4)(["one two three four"]))


@pytest.mark.parametrize("name", ["bag_32", "transformer_32_2"])
def test_padding_is_not_read(name):
    model = models.create(name, num_classes=5, seed=0).eval()
    ids = model.hashing(TEXTS)
    out = model(ids)
    assert out.shape == (3, 5)
    assert model(torch.zeros_like(ids)).isfinite().all()
    # The rows alone, and with what stands behind the padding removed, are the same.
    torch.testing.assert_close(model(ids[1:2]), out[1:2])
    if name == "bag_32":
        torch.testing.assert_close(model(ids[:, :100]), out)
        rows = [model.embedding.weight[row[row != PADDING].long()].mean(0) for row in ids]
        torch.testing.assert_close(model.classifier(model.hidden(torch.stack(rows))), out)
    else:  # what padding would be is of no account
        with torch.no_grad():
            model.embedding.weight[PADDING] = 7.0
        torch.testing.assert_close(model(ids), out)


def test_attention_is_that_of_the_naive_loop():
    from tuition.models.text import _Block

    torch.manual_seed(0)
    block, x = _Block(64).double(), torch.randn(2, 5, 64, dtype=torch.float64)
    attended = torch.tensor([[True] * 5, [True, True, True, False, False]])
    query, key, value = block.attention(block.norm1(x)).split(64, dim=2)
    mixed = torch.zeros_like(x)
    for n in range(2):
        for head in (slice(0, 32), slice(32, 64)):
            for i in range(5):
                scores = torch.stack([query[n, i, head] @ key[n, j, head] / 32**0.5 for j in range(5)])
                weights = scores.masked_fill(~attended[n], -torch.inf).softmax(0)
                mixed[n, i, head] = sum(weights[j] * value[n, j, head] for j in range(5))
    wanted = x + block.mix(mixed)
    wanted = wanted + block.feed(block.norm2(wanted))
    torch.testing.assert_close(block(x, attended[:, None, None]), wanted)


def test_names_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="multiple of 32, the width of a head, not 40"):
        models.create("transformer_40_2", num_classes=2)
    with pytest.raises(UserError, match=r"nearest: bag_64"):
        models.create("bag64", num_classes=2)
    with pytest.raises(UserError, match=r"has no stage1"):
        models.stages("bag_32")


def test_they_can_be_taken_apart():
    layers = {layer.path: layer.shape for layer in models.describe(models.create("bag_32", num_classes=5), (256,))}
    assert layers["embedding"] == (1, 32)
    assert layers["classifier"] == (1, 5)
