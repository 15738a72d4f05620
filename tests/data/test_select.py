"""Choosing rows: against naive loops, and what each method promises."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.data import from_tensors
from tuition.data.select import BY_OUTPUTS, k_centre, select
from tuition.errors import UserError

METHODS = ["random", "stratified", "k-centre", "medoids"]


def points(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _as_many_candidates_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[k_centre.__module__], "CANDIDATES", 1024)


@pytest.fixture(scope="module")
def pool():
    return from_tensors(points(200, 6, 0), torch.arange(200) % 4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 7, 50, 200])
def test_rows_are_different_and_repeat_by_seed(pool, method: str, count: int) -> None:
    rows = select(pool, count, method=method, seed=3)
    assert rows.dtype == torch.long
    assert len(rows) == len(set(rows.tolist())) == count
    assert 0 <= int(rows.min()) <= int(rows.max()) < 200
    assert torch.equal(rows, select(pool, count, method=method, seed=3))
    if count in (7, 50):
        assert not torch.equal(rows, select(pool, count, method=method, seed=4))


def test_random_is_the_pools_own_sample(pool) -> None:
    assert torch.equal(pool[select(pool, 30, seed=5)].inputs, pool.sample(30, seed=5).inputs)


def test_stratified_keeps_the_shares(pool) -> None:
    rows = select(pool, 41, method="stratified", seed=0)
    assert sorted(pool.labels[rows].bincount().tolist()) == [10, 10, 10, 11]
    with pytest.raises(UserError, match="needs labels"):
        select(pool.without_labels, 41, method="stratified", seed=0)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 30), d=st.integers(1, 5), seed=st.integers(0, 10**6), offset=st.sampled_from([0.0, 1000.0]))
@pytest.mark.parametrize("candidates", [4, 8, 1024])
def test_k_centre_is_the_farthest_first_traversal(candidates: int, n: int, d: int, seed: int, offset: float) -> None:
    """Against loops over float64 distances; an offset of all points changes nothing, nor do fewer candidates."""
    sys.modules[k_centre.__module__].CANDIDATES = candidates
    features, first, count = points(n, d, seed) + offset, seed % n, max(2, n // 2)
    rows = [first]
    exact = features.double()
    while len(rows) < count:
        nearest = [min(float((x - exact[row]).norm()) for row in rows) for x in exact]
        rows.append(int(np.argmax(nearest)))
    found = k_centre(features, count, torch.tensor([first]))

    def radius(chosen: list[int]) -> float:
        return max(min(float((x - exact[row]).norm()) for row in chosen) for x in exact)

    # Near ties may fall either way in float32; the radius of the cover may not suffer.
    assert found.tolist() == rows or abs(radius(found.tolist()) - radius(rows)) <= 1e-3 * (1 + radius(rows))


def test_k_centre_covers_better_and_is_nested(pool) -> None:
    rows = select(pool, 40, method="k-centre", seed=0)
    assert torch.equal(rows[:10], select(pool, 10, method="k-centre", seed=0))

    def radius(chosen: torch.Tensor) -> float:
        return float(torch.cdist(pool.inputs, pool.inputs[chosen]).min(1).values.max())

    assert radius(rows) < min(radius(select(pool, 40, seed=seed)) for seed in range(20))


def test_medoids_stand_for_their_clusters() -> None:
    """Of ten far and tight clusters, one row each."""
    centres = torch.eye(10) * 100
    inputs = (centres[:, None] + points(300, 10, 1).view(10, 30, 10)).reshape(300, 10)
    rows = select(from_tensors(inputs), 10, method="medoids", seed=0)
    assert sorted((rows // 30).tolist()) == list(range(10))


@pytest.mark.parametrize("method", ["k-centre", "medoids"])
def test_duplicates_are_no_trouble(method: str) -> None:
    inputs = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]).repeat_interleave(20, 0)
    rows = select(from_tensors(inputs), 30, method=method, seed=0)
    assert len(set(rows.tolist())) == 30
    assert set((select(from_tensors(inputs), 3, method=method, seed=0) // 20).tolist()) == {0, 1, 2}


def test_features_of_an_encoder_are_used() -> None:
    texts = from_tensors([f"text {i}" for i in range(20)])
    with pytest.raises(UserError, match="no features of their own"):
        select(texts, 3, method="k-centre", seed=0)
    features = np.zeros((20, 2))
    features[7] = 9.0
    features[11] = -9.0
    for method in ("k-centre", "medoids"):
        assert {7, 11} <= set(select(texts, 3, method=method, features=features, seed=1).tolist())
    with pytest.raises(UserError, match="one row an input, 20 rows"):
        select(texts, 3, method="k-centre", features=features[:5], seed=0)
    with pytest.raises(UserError, match="finite"):
        select(texts, 3, method="medoids", features=features * np.nan, seed=0)


def test_images_are_compared_in_the_unit_range() -> None:
    images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    images[3] = 255
    first = select(from_tensors(images), 2, method="k-centre", seed=0)
    assert 3 in first


@pytest.mark.parametrize("count", [0, 201])
def test_counts_that_do_not_fit(pool, count: int) -> None:
    with pytest.raises(UserError, match="choose 1 to 200"):
        select(pool, count, seed=0)
    with pytest.raises(UserError, match="'best' is not a way to select"):
        select(pool, 5, method="best", seed=0)


# -- by the outputs of a student ---------------------------------------------------------------------------------------


def softmax(row: list[float]) -> list[float]:
    """Of twice the logits."""
    powers = [np.exp(2 * (value - max(row))) for value in row]
    return [power / sum(powers) for power in powers]


def naive(method: str, logits: torch.Tensor, rows: list[int], count: int) -> list[int]:
    """The rows in the order in which a loop sorts them."""

    def doubt(row: int) -> float:
        p = sorted(softmax(logits[row].tolist()))
        return p[-1] - p[-2] if method == "margin" else sum(x * np.log(x) for x in p if x > 0)

    return sorted(rows, key=lambda row: (doubt(row), row))[:count]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(4, 40), k=st.integers(2, 6), seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 1.0, 8.0]))
@pytest.mark.parametrize("method", ["margin", "entropy"])
def test_doubtful_rows_are_those_of_a_loop(method: str, n: int, k: int, seed: int, scale: float) -> None:
    logits, inputs = scale * points(n, k, seed), from_tensors(points(n, 3, seed + 1))
    asked = list(range(0, n, 3))
    rest = [row for row in range(n) if row not in asked]
    count = max(1, len(rest) // 2)
    found = select(inputs, count, method=method, logits=logits, exclude=asked, seed=0)
    assert found.tolist() == naive(method, logits, rest, count)


def test_diverse_margin_takes_one_row_of_each_doubtful_cluster() -> None:
    """Of 10 x count rows of small margin, in 3 far clusters, the medoids; sure rows are never taken."""
    doubtful = torch.tensor([[3.0, 3.0, 0.0, 0.0], [0.0, 3.0, 3.0, 0.0], [0.0, 0.0, 3.0, 3.0]]).repeat_interleave(10, 0)
    sure = torch.eye(4).repeat(30, 1) * 20
    logits = torch.cat([sure, doubtful + 0.01 * points(30, 4, 3)])
    rows = select(from_tensors(points(150, 2, 0)), 3, method="diverse-margin", logits=logits, seed=0)
    assert sorted(((rows - 120) // 10).tolist()) == [0, 1, 2]
    asked = list(range(120, 130))
    rows = select(from_tensors(points(150, 2, 0)), 2, method="diverse-margin", logits=logits, exclude=asked, seed=0)
    assert sorted(((rows - 120) // 10).tolist()) == [1, 2]


def test_the_weights_of_diverse_margin_pull_its_centres() -> None:
    """One cluster whose rows differ in margin: the medoid is the row nearest to the mean weighted by 1 - margin."""
    logits = torch.zeros(10, 2)
    logits[:, 0] = torch.tensor([0.0, 0.02, 0.05, 0.4, 0.5, 0.6, 0.9, 1.2, 1.5, 2.0])
    probabilities = [softmax(row) for row in logits.tolist()]
    weights = [1 - (max(p) - min(p)) for p in probabilities]
    mean = sum(w * x for w, x in zip(weights, logits[:, 0].tolist(), strict=True)) / sum(weights)
    expected = int((logits[:, 0] - mean).abs().argmin())
    assert expected != int((logits[:, 0] - logits[:, 0].mean()).abs().argmin())
    rows = select(from_tensors(points(10, 2, 0)), 1, method="diverse-margin", logits=logits, seed=0)
    assert rows.tolist() == [expected]


@pytest.mark.parametrize("candidates", [4, 1024])
@pytest.mark.parametrize("given", ["logits", "features"])
def test_coverage_goes_on_from_what_was_asked(candidates: int, given: str) -> None:
    """Against a loop of farthest first, in probabilities or in the features of an encoder, from the excluded rows."""
    sys.modules[k_centre.__module__].CANDIDATES = candidates
    logits, features, asked = points(60, 4, 1), points(60, 3, 2), [3, 17, 40]
    space = features.numpy() if given == "features" else np.array([softmax(row) for row in logits.tolist()])
    chosen = list(asked)
    while len(chosen) < 3 + 20:
        chosen.append(int(np.argmax([min(np.linalg.norm(x - space[row]) for row in chosen) for x in space])))
    options = {"logits": logits} | ({"features": features} if given == "features" else {})
    found = select(from_tensors(points(60, 2, 0)), 20, method="coverage", exclude=asked, seed=0, **options)
    assert found.tolist() == chosen[3:]


@pytest.mark.parametrize("method", [*METHODS, *BY_OUTPUTS, "coverage"])
def test_what_was_asked_is_not_chosen_again(pool, method: str) -> None:
    asked = torch.arange(0, 200, 2)
    logits = points(200, 5, 7)
    rows = select(pool, 60, method=method, logits=logits, exclude=asked, seed=1)
    assert len(set(rows.tolist())) == 60
    assert not set(rows.tolist()) & set(asked.tolist())
    everything = select(pool, 100, method=method, logits=logits, exclude=asked, seed=1)
    assert sorted(everything.tolist()) == list(range(1, 200, 2))
    with pytest.raises(UserError, match="cannot select 101 of the 100 not asked inputs"):
        select(pool, 101, method=method, logits=logits, exclude=asked, seed=1)


def test_random_rows_in_rounds_are_those_of_one_draw(pool) -> None:
    first = select(pool, 20, seed=9)
    second = select(pool, 30, exclude=first, seed=9)
    assert torch.equal(torch.cat([first, second]), select(pool, 50, seed=9))


@pytest.mark.parametrize("method", [*BY_OUTPUTS, "coverage"])
def test_outputs_that_are_missing_or_do_not_fit(pool, method: str) -> None:
    for logits, message in (
        (None, "goes by a student's outputs"),
        (torch.zeros(199, 3), "200 rows; these are \\(199, 3\\)"),
        (torch.zeros(200, 1), "a column a class"),
        (torch.full((200, 3), torch.nan), "finite"),
    ):
        with pytest.raises(UserError, match=message):
            select(pool, 5, method=method, logits=logits, seed=0)
