import copy
import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.data import Crop, Pool, from_tensors
from tuition.errors import UserError

seeds = st.integers(0, 2**31)


def numbered(count, classes=1):
    """Vectors whose only column says their row, labels in turn: what a draw took can be read off."""
    return from_tensors(torch.arange(count).float()[:, None], torch.arange(count) % classes)


def rows(pool):
    return pool.inputs[:, 0].long().tolist()


def images(count=5, channels=3, side=8, seed=0):
    return torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(seed)).byte()


class TestFromTensors:
    def test_images_vectors_texts(self):
        assert len(from_tensors(images(5))) == 5
        assert len(from_tensors(np.zeros((4, 7), np.float32))) == 4
        texts = from_tensors(["one", "two"], [1, 0], class_names=["a", "b"])
        assert texts.inputs == ["one", "two"]
        assert texts.labels.dtype == torch.int64

    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list])
    def test_labels_of_any_integer_kind(self, kind):
        pool = from_tensors(images(3), kind([2, 0, 1]))
        assert pool.labels.tolist() == [2, 0, 1]
        assert pool.labels.dtype == torch.int64

    def test_number_of_classes_survives_a_draw_that_misses_some(self):
        pool = from_tensors(images(5), [0, 1, 2, 3, 9])
        assert pool.num_classes == 10
        assert pool[:2].num_classes == 10
        assert pool.class_names == tuple("0123456789")
        assert pool.without_labels.labels is None
        assert from_tensors(images(2)).num_classes is None
        assert Pool(images(2), torch.tensor([0, 4])).num_classes == 5

    @pytest.mark.parametrize(
        ("inputs", "labels", "says"),
        [
            ([], None, "no inputs"),
            (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), None, "no inputs"),
            (torch.zeros(2, 3, 8, 8), None, "images are uint8"),
            (torch.zeros(2, 3, 7, 8, dtype=torch.uint8), None, "at least 8 pixels high and wide, not 7x8"),
            (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), None, "looks like (n, h, w, c)"),
            (torch.zeros(2, 28, 28, dtype=torch.uint8), None, "not of shape (2, 28, 28)"),
            (torch.zeros(2, 3, dtype=torch.int64), None, "floating point"),
            (torch.tensor([[0.0], [float("nan")]]), None, "NaN"),
            (torch.tensor([[0.0], [float("inf")]]), None, "infinity"),
            (["text", 3], None, "images, vectors or strings"),
            ([[1.0], [1.0, 2.0]], None, "of one shape"),
            (images(2), [0], "2 inputs but 1 labels"),
            (images(2), [0, -1], "run from -1 to 0"),
            (images(2), [0, 2], "run from 0 to 2, but class indices run from 0 to 1"),
            (images(2), [0.0, 1.0], "class indices, not torch.float32"),
            (images(2), [True, False], "class indices, not torch.bool"),
            (images(2), [[0], [1]], "of shape (2, 1)"),
        ],
    )
    def test_what_cannot_be_used_is_said_in_one_sentence(self, inputs, labels, says):
        with pytest.raises(UserError) as caught:
            from_tensors(inputs, labels, class_names=["a", "b"], name="mine")
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


class TestIndexing:
    @pytest.mark.parametrize(
        ("index", "expected"),
        [
            (slice(1, 4), [1, 2, 3]),
            (slice(None, None, 2), [0, 2, 4]),
            (slice(0), []),
            (slice(4, 2), []),
            (slice(None, None, -2), [4, 2, 0]),
            ([], []),
            ([3, 0, 0], [3, 0, 0]),
            ([-1], [4]),
            (range(2), [0, 1]),
            ([True, False, False, True, False], [0, 3]),
            (np.array([4, 1]), [4, 1]),
            (torch.arange(5) > 2, [3, 4]),
        ],
    )
    def test_rows_follow_the_index(self, index, expected):
        part = numbered(5, classes=3)[index]
        assert rows(part) == expected
        assert part.labels.tolist() == [row % 3 for row in expected]

    def test_texts_and_views_too(self):
        texts = from_tensors(["a", "b", "c"], [0, 1, 2])[[2, 0]]
        assert texts.inputs == ["c", "a"]
        assert texts.labels.tolist() == [2, 0]
        viewed = from_tensors(images(6)).view(Crop(), seed=1)
        assert torch.equal(viewed[[4, 2]].views, viewed.views[[4, 2]])
        assert torch.equal(viewed[[4, 2]].asked(), viewed.asked()[[4, 2]])

    def test_a_single_row_is_refused(self):
        with pytest.raises(UserError, match=r"pool\[i : i \+ 1\]"):
            numbered(3)[1]

    def test_repr(self):
        pool = from_tensors(images(5), [0, 1, 2, 1, 0], name="mine")
        assert repr(pool) == "Pool 'mine': 5 images of 3 x 8 x 8\n  3 classes: 0, 1, 2"
        assert repr(from_tensors(["a"])) == "Pool 'tensors': 1 text\n  no labels"
        many = from_tensors(torch.zeros(2_000, 4), range(2_000), name="<b>\x1b[31m")
        assert repr(many) == ("Pool '<b>\\x1b[31m': 2,000 vectors of 4\n  2,000 classes: 0, 1, 2, 3, 4 and 1,995 more")
        assert many._repr_html_().startswith(
            "<strong>Pool &#x27;&lt;b&gt;\\x1b[31m&#x27;: 2,000 vectors of 4</strong><br>"
        )
        known = from_tensors(["a"], class_names=["good", "bad"])
        assert repr(known).endswith("no labels; 2 classes: good, bad")


class TestDrawing:
    @given(st.integers(1, 60), seeds, st.data())
    def test_samples_are_rows_without_repeats_and_nested(self, count, seed, data):
        drawn = rows(numbered(count).sample(data.draw(st.integers(1, count)), seed=seed))
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(range(count))
        fewer = data.draw(st.integers(1, len(drawn)))
        assert rows(numbered(count).sample(fewer, seed=seed)) == drawn[:fewer]

    @given(st.integers(2, 60), st.integers(1, 7), st.booleans(), seeds, st.data())
    def test_a_split_is_disjoint_and_complete(self, count, classes, stratified, seed, data):
        size = data.draw(st.integers(1, count - 1))
        first, second = numbered(count, classes).split(size, seed=seed, stratified=stratified)
        assert len(first) == size
        assert sorted(rows(first) + rows(second)) == list(range(count))
        for part in (first, second):
            assert part.labels.tolist() == [row % classes for row in rows(part)]

    @given(st.lists(st.integers(0, 4), min_size=2, max_size=80), seeds, st.data())
    def test_stratified_shares_are_exact_to_within_one_row(self, labels, seed, data):
        pool = from_tensors(torch.arange(len(labels)).float()[:, None], labels)
        count = data.draw(st.integers(1, len(labels)))
        drawn = pool.sample(count, seed=seed, stratified=True)
        assert len(set(rows(drawn))) == len(drawn) == count
        for label in set(labels):
            share = count * labels.count(label) / len(labels)
            assert abs(drawn.labels.tolist().count(label) - share) < 1

    def test_seeds_decide_and_global_randomness_is_untouched(self):
        pool = numbered(1000, classes=10)
        state = torch.get_rng_state()
        for stratified in (False, True):
            draws = [rows(pool.sample(50, seed=seed, stratified=stratified)) for seed in (1, 1, 2)]
            assert draws[0] == draws[1] != draws[2]
        assert torch.equal(state, torch.get_rng_state())

    def test_draws_are_uniform(self):
        """Each of 10 rows is drawn in 3 of 10 cases: 4,000 seeds, five standard deviations."""
        pool = numbered(10)
        counts = torch.bincount(torch.tensor([rows(pool.sample(3, seed=seed)) for seed in range(4000)]).flatten())
        assert (counts - 1200).abs().max() < 5 * (4000 * 0.3 * 0.7) ** 0.5

    @pytest.mark.parametrize("count", [0, -1, 6])
    def test_a_sample_that_cannot_be_drawn(self, count):
        with pytest.raises(UserError, match="ask for 1 to 5"):
            numbered(5).sample(count, seed=0)

    @pytest.mark.parametrize("count", [0, 5])
    def test_a_split_that_cannot_be_made(self, count):
        with pytest.raises(UserError, match="choose 1 to 4"):
            numbered(5).split(count, seed=0)

    def test_stratified_needs_labels(self):
        with pytest.raises(UserError, match="needs labels"):
            numbered(5).without_labels.sample(2, seed=0, stratified=True)


class TestDigests:
    def test_known_digests(self):
        """They name paid answers in stores: a change would orphan every one of them."""

        def one(pool):
            assert len(pool.digests[0]) == 16
            return pool.digests[0].hex()

        ramp = torch.arange(192, dtype=torch.uint8).reshape(1, 3, 8, 8)

        def independent(kind, content):
            person = hashlib.blake2b(kind, digest_size=16).digest()
            return hashlib.blake2b(content, digest_size=16, person=person).hexdigest()

        assert one(from_tensors(ramp)) == independent(b"uint8(3, 8, 8)", bytes(range(192)))
        assert one(from_tensors(torch.tensor([[1.0, 2.0]]))) == independent(
            b"float32(2,)", bytes.fromhex("0000803f00000040")
        )
        assert one(from_tensors(["naïve"])) == independent(b"text", b"na\xc3\xafve")

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.sampled_from(["image", "vector", "text"]))
    def test_equal_if_and_only_if_the_content_is(self, contents, kind):
        if kind == "image":
            pool = from_tensors(torch.tensor(contents, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8))
        elif kind == "vector":
            pool = from_tensors(torch.tensor(contents).double()[:, None])
        else:
            pool = from_tensors([str(content) for content in contents])
        for i, left in enumerate(contents):
            for j, right in enumerate(contents):
                assert (pool.digests[i] == pool.digests[j]) == (left == right)

    def test_shape_and_type_count(self):
        zeros = [
            from_tensors(torch.zeros(1, 1, 8, 18, dtype=torch.uint8)),
            from_tensors(torch.zeros(1, 1, 9, 16, dtype=torch.uint8)),
            from_tensors(torch.zeros(1, 36)),
            from_tensors(torch.zeros(1, 18, dtype=torch.float64)),
            from_tensors(torch.zeros(1, 72, dtype=torch.bfloat16)),
            from_tensors(torch.zeros(1, 72, dtype=torch.float16)),
            from_tensors(["\0" * 144]),
        ]
        assert len({pool.digests[0] for pool in zeros}) == len(zeros)

    def test_position_labels_and_memory_layout_do_not_count(self):
        inputs = images(10)
        pool = from_tensors(inputs, range(10), name="mine")
        assert from_tensors(inputs.flip(0)).digests == pool.digests[::-1]
        assert from_tensors(inputs.to(memory_format=torch.channels_last)).digests == pool.digests
        assert pool[[3, 3, 8]].digests == [pool.digests[3], pool.digests[3], pool.digests[8]]

    def test_of_what_is_asked(self):
        inputs = images(6, side=12)
        pool = from_tensors(inputs)
        centred = pool.view(Crop(padding=0, size=8))
        assert centred.digests == from_tensors(inputs[:, :, 2:10, 2:10]).digests
        assert pool.view(Crop(padding=2), seed=3).digests != pool.digests
        assert pool.view(Crop(padding=2)).digests == pool.digests  # the centred view of a padded image is the image

    def test_more_than_one_block(self):
        pool = from_tensors(torch.arange(5000).float()[:, None])
        assert len(set(pool.digests)) == 5000
        assert pool.digests[4500] == pool[[4500]].digests[0]


class TestViews:
    def test_by_seed(self):
        pool = from_tensors(images(20))
        one, same, other = (pool.view(Crop(), seed=seed).asked() for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.equal(pool.view(Crop(), seed=1).view(None).asked(), pool.inputs)

    def test_rows_keep_their_views_when_drawn(self):
        viewed = from_tensors(images(20)).view(Crop(), seed=1)
        drawn = viewed.sample(7, seed=3)
        asked = dict(zip(viewed.digests, viewed.asked(), strict=True))
        for digest, image in zip(drawn.digests, drawn.asked(), strict=True):
            assert torch.equal(asked[digest], image)

    def test_only_images_have_views(self):
        for pool in (from_tensors(["a"]), from_tensors(torch.zeros(1, 9))):
            assert pool.view(None).asked() is not None
            with pytest.raises(UserError, match="only pools of images"):
                pool.view(Crop())

    @settings(max_examples=20)
    @given(seeds)
    def test_a_pool_is_a_value(self, seed):
        pool = from_tensors(images(4), [0, 1, 0, 1], augment=Crop(padding=1))
        before = copy.deepcopy(pool)
        pool.sample(2, seed=seed).view(Crop(), seed=seed).asked()
        assert torch.equal(before.inputs, pool.inputs)
        assert pool.views is None
        assert pool[:2].augment == Crop(padding=1)
