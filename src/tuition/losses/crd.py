"""CRD: contrastive representation distillation (Tian, Krishnan and Isola 2020)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuition.losses._seeded import seeded


class CRD(nn.Module):
    """Noise-contrastive estimation: a sample's student and teacher embeddings belong together, others' do not.

    Both sides are embedded linearly in `dim` dimensions and scaled to norm 1. Memories hold the last embedding of each
    of the N samples (with momentum). Against the other side's memory m, an embedding x scores g_j = exp(x m_j / T) / Z;
    with K negatives and c = K / N the loss of a side is the batch mean of

        -log(g_i / (g_i + c + 1e-7)) - sum over negatives j of log(c / (g_j + c + 1e-7))

    and the two sides add up. Z is N times the mean of exp(x m_j / T) over positives and negatives of the first batch,
    kept from then on. Memories and Z change in training mode only.

    K negatives are drawn with replacement from far fewer allowed rows, so each counts many times over. Given
    `contrast_idx`, each is weighted by how often it was drawn: the published loss exactly, for one (batch x N) product
    instead of gathering K rows per sample. Without, by its expectation K / |allowed|: the mean of that loss, nothing
    drawn (the default). Allowed are the rows of other classes, or without labels all other rows.

    Args:
        student_dim: columns of the student's output; further dimensions are flattened.
        teacher_dim: columns of the teacher's.
        num_samples: N, rows of the transfer set.
        dim: of the embeddings.
        negatives: K.
        temperature: T.
        momentum: of the memories.
        labels: (N,) class indices of the transfer set's rows, or None.
        seed: of the initial weights and memories.

    Raises:
        ValueError: no row to contrast with, or another number of labels than rows.

    Source: Contrastive Representation Distillation, arXiv 1910.10699, and RepDistiller, which fixes what the paper
    leaves open (Z, the 1e-7, the sum over negatives).
    """

    memory_student: Tensor
    memory_teacher: Tensor
    z_student: Tensor
    z_teacher: Tensor
    labels: Tensor | None
    expected: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        num_samples: int,
        *,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        labels: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if labels is not None and labels.shape != (num_samples,):
            raise ValueError(f"labels must be ({num_samples},), one a sample, but have shape {tuple(labels.shape)}")
        if num_samples < 2 or (labels is not None and (labels == labels[0]).all()):
            raise ValueError("contrast needs negatives: at least 2 samples, and of 2 classes where there are labels")
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        with seeded(seed):
            self.embed_student = nn.Linear(student_dim, dim)
            self.embed_teacher = nn.Linear(teacher_dim, dim)
            bound = math.sqrt(3 / dim)  # so that a row's expected norm is 1
            for side in ("student", "teacher"):
                self.register_buffer(f"memory_{side}", torch.empty(num_samples, dim).uniform_(-bound, bound))
                self.register_buffer(f"z_{side}", torch.tensor(0.0))  # 0: not known yet
        self.register_buffer("labels", labels, persistent=False)
        if labels is None:
            allowed = torch.full((num_samples,), num_samples - 1)
        else:
            allowed = num_samples - labels.bincount()[labels]
        self.register_buffer("expected", negatives / allowed, persistent=False)  # draws of each allowed row
        self._z_known = False  # on the host, as reading a tensor there would wait for the device

    def forward(self, student: Tensor, teacher: Tensor, ids: Tensor, contrast_idx: Tensor | None = None) -> Tensor:
        """Scalar in the module's dtype.

        Args:
            student: (b, student_dim).
            teacher: (b, teacher_dim), a constant (its embedding is learned).
            ids: (b,) rows of the transfer set.
            contrast_idx: (b, 1 + K) rows: the sample's own first, then K drawn negatives; or None.

        Raises:
            ValueError: the numbers of rows differ.
        """
        if not len(student) == len(teacher) == len(ids):
            raise ValueError(
                f"student, teacher and ids differ in their number of rows: {len(student)}, {len(teacher)}, {len(ids)}"
            )
        dtype = self.embed_student.weight.dtype
        weights = self._weights(ids, contrast_idx).to(dtype)
        count = self.negatives if contrast_idx is None else contrast_idx.shape[1] - 1
        with torch.autocast(student.device.type, enabled=False):
            s = F.normalize(self.embed_student(student.flatten(1).to(dtype)))
            t = F.normalize(self.embed_teacher(teacher.detach().flatten(1).to(dtype)))
            loss = self._side(s, self.memory_teacher, self.z_student, ids, weights, count)
            loss = loss + self._side(t, self.memory_student, self.z_teacher, ids, weights, count)
        if self.training:
            self._remember(self.memory_student, ids, s.detach())
            self._remember(self.memory_teacher, ids, t.detach())
            self._z_known = True
        return loss

    @torch.no_grad()
    def draw(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Rows (b, 1 + K) to contrast `ids` (b,) with, for `forward`: their own, then negatives with replacement.

        Args:
            generator: on the CPU.
        """
        classes = torch.arange(len(self.memory_student)) if self.labels is None else self.labels.cpu()
        by_class, counts = classes.argsort(stable=True), classes.bincount()
        own = classes[ids.cpu()]
        first, size = (counts.cumsum(0) - counts)[own, None], counts[own, None]
        uniform = torch.rand(len(ids), self.negatives, generator=generator, dtype=torch.float64)
        place = (uniform * (len(classes) - size)).long()
        place += (place >= first) * size  # steps over the rows of its own class
        return torch.cat([ids[:, None], by_class[place].to(ids.device)], dim=1)

    def _weights(self, ids: Tensor, contrast_idx: Tensor | None) -> Tensor:
        """(b, N): how often each row is, or is expected to be, drawn as a negative."""
        rows = torch.arange(len(self.memory_student), device=ids.device)
        if contrast_idx is not None:
            drawn = contrast_idx[:, 1:]
            return torch.zeros(len(ids), len(rows), device=ids.device).scatter_add_(
                1, drawn, torch.ones_like(drawn, dtype=torch.float32)
            )
        allowed = ids[:, None] != rows if self.labels is None else self.labels[ids][:, None] != self.labels
        return allowed * self.expected[ids, None]

    def _side(self, x: Tensor, memory: Tensor, z: Tensor, ids: Tensor, weights: Tensor, count: int) -> Tensor:
        """With g = exp(u) / Z and c' = c + 1e-7, g / (g + c') is the sigmoid of u - log(Z c'); so logs are softplus."""
        n, x = len(memory), x / self.temperature
        if not self._z_known:
            with torch.no_grad():
                scores = (x @ memory.T).exp()
                own = scores.gather(1, ids[:, None]).squeeze(1)
                mean = ((own + (weights * scores).sum(dim=1)) / (1 + count)).mean()
                first = torch.where(z > 0, z, mean * n)
            if self.training:
                z.copy_(first)
        else:
            first = z
        noise = count / n
        shift = (first * (noise + 1e-7)).log()
        memory = memory.clone()  # as backward needs it after it has been updated
        positive = F.softplus(shift - (x * memory[ids]).sum(dim=1))
        negative = F.softplus(torch.addmm(-shift, x, memory.T))
        drawn = torch.dot(weights.flatten(), negative.flatten()) / len(x)
        return positive.mean() + drawn + count * math.log1p(1e-7 / noise)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._z_known = False  # until a forward pass has looked

    @torch.no_grad()
    def _remember(self, memory: Tensor, ids: Tensor, x: Tensor) -> None:
        memory.index_copy_(0, ids, F.normalize(self.momentum * memory[ids] + (1 - self.momentum) * x))
