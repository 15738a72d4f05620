"""Shares of asked inputs in unasked ones: against walks on a graph that is built by loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition import UserError
from tuition.data import nearness


def by_loops(unasked, asked, neighbours):
    """The limit of endless walks, by the inverse of a dense matrix."""
    rows = torch.nn.functional.normalize(torch.cat([asked, unasked]).double(), dim=1)
    links = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i in range(len(rows)):
        others = sorted((-float(rows[i] @ rows[j]), j) for j in range(len(rows)) if j != i)
        for cosine, j in others[:neighbours]:
            links[i, j] += max(-cosine, 0) ** 4
            links[j, i] += max(-cosine, 0) ** 4
    ends = links.sum(1)
    for i in range(len(rows)):
        for j in range(len(rows)):
            links[i, j] = links[i, j] / (ends[i] * ends[j]) ** 0.5 if links[i, j] > 0 else 0
    walks = torch.linalg.inv(torch.eye(len(rows), dtype=torch.float64) - 0.8 * links)[len(asked) :, : len(asked)]
    return walks / walks.sum(1, keepdim=True)


@given(st.integers(0, 1000), st.integers(2, 8))
def test_shares_are_those_of_endless_walks(seed, neighbours):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(24, 6, generator=generator) + 1
    shares = nearness(features[5:], features[:5], neighbours=neighbours)
    expected = by_loops(features[5:], features[:5], neighbours)
    reached = expected.isfinite().all(1)
    torch.testing.assert_close(shares[reached].double(), expected[reached], atol=0.02, rtol=0)
    torch.testing.assert_close(shares.sum(1), torch.ones(19))


def test_an_input_takes_the_answer_of_its_own_group():
    torch.manual_seed(0)
    groups = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]).repeat(20, 1)
    shares = nearness(groups[3:] + 0.05 * torch.rand(57, 3), groups[:3], neighbours=4)
    assert torch.equal(shares.argmax(1), torch.arange(57) % 3)
    assert float(shares.max(1).values.min()) > 0.9


def test_an_input_that_none_reaches_takes_all_alike():
    near, far = torch.tensor([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3]]), torch.tensor([[-1.0, -0.1], [-1.0, -0.2]])
    shares = nearness(torch.cat([near[2:], far]), near[:2], neighbours=1)
    torch.testing.assert_close(shares[1:], torch.full((2, 2), 0.5))


def test_what_has_no_nearness_is_refused():
    with pytest.raises(UserError, match="of one width; give those of one encoder"):
        nearness(torch.ones(4, 3), torch.ones(2, 5))
    with pytest.raises(UserError, match="finite"):
        nearness(torch.full((4, 3), torch.nan), torch.ones(2, 3))
    with pytest.raises(UserError, match=r"1,000,000 unasked to 1,000 asked inputs does not fit in memory"):
        nearness(torch.ones(1_000_000, 1), torch.ones(1000, 1))
