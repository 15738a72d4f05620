"""Choosing rows: against naive loops, and what each method promises."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.data import from_tensors
from tuition.data.select import k_centre, select
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
    found = k_centre(features, count, first)

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
