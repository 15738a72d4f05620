"""What is retrieved by embeddings (n, d), compared by cosine similarity; all figures are in percent."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.training.evaluation import percent


def cosine(student: Tensor, teacher: Tensor) -> float:
    """Mean similarity of each row with its counterpart."""
    return 100.0 * float(F.cosine_similarity(student.double(), teacher.double()).mean())


def neighbours(embeddings: Tensor, k: int) -> Tensor:
    """The k nearest other rows (n, k) of each, the nearest first, and of ties the earlier."""
    return _nearest(embeddings, embeddings, k, alone=True)


def neighbour_recall(student: Tensor, teacher: Tensor, k: int = 10) -> float:
    """Share of the teacher's k nearest that are among the student's k nearest."""
    return percent((neighbours(student, k)[:, :, None] == neighbours(teacher, k)[:, None]).any(dim=1))


def reciprocal_rank(student: Tensor, teacher: Tensor) -> float:
    """Mean reciprocal rank that the teacher's nearest has with the student."""
    hits = neighbours(student, len(student) - 1) == neighbours(teacher, 1)
    return 100.0 * float((1 / (hits.double().argmax(dim=1) + 1.0)).mean())


def knn_accuracy(embeddings: Tensor, labels: Tensor, known: Tensor, known_labels: Tensor, k: int = 10) -> float:
    """Share of rows whose class most of their k nearest among the `known` rows have; of ties, that of the nearest."""
    votes = F.one_hot(known_labels[_nearest(embeddings, known, k)])
    first = votes.argmax(dim=1)  # where each class stands first
    return percent((votes.sum(dim=1) * (k + 1) - first).argmax(dim=1) == labels)


def centroid_accuracy(embeddings: Tensor, labels: Tensor, known: Tensor, known_labels: Tensor) -> float:
    """Share of rows to which the mean of their class's `known` rows, these scaled to length 1, is the nearest."""
    classes, own = known_labels.unique(return_inverse=True)
    centroids = F.one_hot(own).double().T @ F.normalize(known.double())
    return percent(classes[_nearest(embeddings, centroids, 1)[:, 0]] == labels)


def _nearest(queries: Tensor, rows: Tensor, k: int, alone: bool = False) -> Tensor:
    """Indices (n, k) of the rows nearest to each query; `alone` leaves out the row of its own number."""
    if not 0 < k <= len(rows) - alone:
        raise ValueError(f"{len(rows)} rows have fewer than {k} neighbours.")
    queries, rows = F.normalize(queries.double()), F.normalize(rows.double())
    nearest = []
    for start in range(0, len(queries), 1024):
        similar = queries[start : start + 1024] @ rows.T
        if alone:
            similar[:, start:].fill_diagonal_(-torch.inf)
        nearest.append(similar.argsort(dim=1, descending=True, stable=True)[:, :k])
    return torch.cat(nearest)
