"""Measures of retrieval in the benchmarks, against loops over pairs."""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

FILE = Path(__file__).parents[1] / "benchmarks" / "retrieval.py"
spec = importlib.util.spec_from_file_location("retrieval", FILE)
retrieval = importlib.util.module_from_spec(spec)
spec.loader.exec_module(retrieval)


@pytest.fixture(scope="module", params=[(12, 3, 5), (30, 7, 2)])
def pair(request):
    """Embeddings of two widths, two rows equal, and labels."""
    n, d, e = request.param
    generator = torch.Generator().manual_seed(n)
    student, teacher = (torch.randn(n, width, generator=generator, dtype=torch.float64) for width in (d, e))
    student[3] = student[5]
    return student, teacher, torch.randint(0, 4, (n,), generator=generator)


def order(x, i, others):
    """`others`, the nearest to row i first."""
    return sorted(others, key=lambda j: (-round(float(F.cosine_similarity(x[i], x[j], dim=0)), 12), j))


def ranked(x):
    return [order(x, i, [j for j in range(len(x)) if j != i]) for i in range(len(x))]


def test_cosine_is_that_of_rows_with_their_counterparts(pair):
    _, teacher, _ = pair
    other = teacher.flip(0)
    cosines = [float(a @ b / (a @ a).sqrt() / (b @ b).sqrt()) for a, b in zip(teacher, other, strict=True)]
    assert retrieval.cosine(teacher, other) == pytest.approx(100 * sum(cosines) / len(cosines))


def test_neighbours_and_their_ranks_are_those_of_the_loop(pair):
    student, teacher, _ = pair
    n = len(student)
    near, theirs = ranked(student), ranked(teacher)
    assert retrieval.neighbours(student, 4).tolist() == [row[:4] for row in near]
    for k in (1, 4):
        hits = [len(set(near[i][:k]) & set(theirs[i][:k])) / k for i in range(n)]
        assert retrieval.neighbour_recall(student, teacher, k) == pytest.approx(100 * sum(hits) / n)
    ranks = [1 / (1 + near[i].index(theirs[i][0])) for i in range(n)]
    assert retrieval.reciprocal_rank(student, teacher) == pytest.approx(100 * sum(ranks) / n)
    with pytest.raises(ValueError, match=f"{n} rows have fewer than {n} neighbours"):
        retrieval.neighbours(student, n)


def test_classification_by_neighbours_and_centroids_is_that_of_the_loop(pair):
    student, _, labels = pair
    known, queries, known_labels, query_labels = student[:8], student[8:], labels[:8], labels[8:]
    for k in (1, 3, 8):
        hits = []
        for query, label in zip(queries, query_labels, strict=True):
            near = order(torch.cat([known, query[None]]), 8, range(8))[:k]
            # most_common keeps the order in which classes come, so that the nearest of ties is first
            hits.append(Counter(int(known_labels[j]) for j in near).most_common(1)[0][0] == label)
        assert retrieval.knn_accuracy(queries, query_labels, known, known_labels, k) == pytest.approx(
            100 * np.mean(hits)
        )
    rows = {c: [known[i] / known[i].norm() for i in range(8) if known_labels[i] == c] for c in range(4)}
    centres = {c: torch.stack(own).mean(0) for c, own in rows.items() if own}
    hits = []
    for query, label in zip(queries, query_labels, strict=True):
        hits.append(max(centres, key=lambda c: float(F.cosine_similarity(query, centres[c], dim=0))) == label)
    assert retrieval.centroid_accuracy(queries, query_labels, known, known_labels) == pytest.approx(100 * np.mean(hits))
