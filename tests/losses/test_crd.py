import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.losses import CRD

NAMES = {
    "embed_student.weight": "embed_s.linear.weight",
    "embed_student.bias": "embed_s.linear.bias",
    "embed_teacher.weight": "embed_t.linear.weight",
    "embed_teacher.bias": "embed_t.linear.bias",
    "memory_student": "contrast.memory_v1",
    "memory_teacher": "contrast.memory_v2",
}


def published(crd: CRD, s: Tensor, t: Tensor, idx: Tensor, z: list[float]) -> Tensor:
    """Gathers every negative, sample by sample, side by side."""
    k, n = idx.shape[1] - 1, len(crd.memory_student)
    s, t = F.normalize(crd.embed_student(s)), F.normalize(crd.embed_teacher(t))
    total = torch.zeros(())
    for side, (x, memory) in enumerate([(s, crd.memory_teacher), (t, crd.memory_student)]):
        scores = torch.stack([(memory[row] @ v / crd.temperature).exp() for v, row in zip(x, idx, strict=True)])
        if z[side] == 0:
            z[side] = scores.mean().item() * n
        scores = scores / z[side]
        own = scores[:, 0] / (scores[:, 0] + k / n + 1e-7)
        others = (k / n) / (scores[:, 1:] + k / n + 1e-7)
        total = total - (own.log().sum() + others.log().sum()) / len(x)
    return total


def draw(crd: CRD, ids: Tensor, labels: Tensor | None, k: int) -> Tensor:
    rows = torch.arange(len(crd.memory_student))
    allowed = ids[:, None] != rows if labels is None else labels[ids][:, None] != labels
    return torch.cat([ids[:, None], torch.multinomial(allowed.float(), k, replacement=True)], dim=1)


def test_golden(golden) -> None:
    width = golden["student_logits"].shape[1]
    crd = CRD(width, width, 40, dim=16, negatives=24)
    before = {ours: golden[f"crd/state/{theirs}"] for ours, theirs in NAMES.items()}
    crd.load_state_dict(before | {"z_student": torch.tensor(0.0), "z_teacher": torch.tensor(0.0)})
    for step in ("crd/step0", "crd/step1"):
        ids, drawn = golden[f"{step}/ids"], golden[f"{step}/contrast_idx"]
        golden.check(step, lambda s, ids=ids, drawn=drawn: crd(s, golden["teacher_logits"], ids, drawn))
    for name in ("memory_student", "memory_teacher"):
        torch.testing.assert_close(getattr(crd, name), golden[f"crd/state_after/{NAMES[name]}"], rtol=1e-5, atol=1e-6)
    z = torch.stack([crd.z_student, crd.z_teacher])
    torch.testing.assert_close(z, golden["crd/state_after/contrast.params"][2:4], rtol=1e-5, atol=0)


@pytest.mark.parametrize("labels", [None, torch.arange(30) % 4])
def test_equals_the_gathered_form(labels: Tensor | None) -> None:
    crd, z = CRD(7, 5, 30, dim=8, labels=labels), [0.0, 0.0]
    for step in range(2):
        s, t, ids = torch.randn(6, 7), torch.randn(6, 5), torch.randperm(30)[:6]
        idx = draw(crd, ids, labels, 200)
        expected = published(crd, s, t, idx, z)
        assert crd(s, t, ids, idx).item() == pytest.approx(expected.item(), rel=1e-5), step


@pytest.mark.parametrize("labels", [None, torch.arange(30) % 4])
def test_the_default_is_the_mean_over_draws(labels: Tensor | None) -> None:
    crd = CRD(7, 5, 30, dim=8, negatives=100, labels=labels).eval()
    crd.z_student.fill_(40.0)
    crd.z_teacher.fill_(50.0)
    s, t, ids = torch.randn(6, 7), torch.randn(6, 5), torch.randperm(30)[:6]
    draws = torch.stack([crd(s, t, ids, draw(crd, ids, labels, 100)) for _ in range(400)])
    error = draws.std() / 400**0.5
    assert (crd(s, t, ids) - draws.mean()).abs() < 4 * error
    assert error < 0.01 * draws.mean()


def test_memories_move_with_momentum_and_only_in_training() -> None:
    crd = CRD(4, 4, 10, dim=8, momentum=0.8)
    before, ids, s = crd.memory_student.clone(), torch.tensor([3, 7]), torch.randn(2, 4)
    crd.eval()(s, s, ids)
    assert torch.equal(crd.memory_student, before)
    assert crd.z_student == 0
    crd.train()(s, s, ids)
    moved = F.normalize(0.8 * before[ids] + 0.2 * F.normalize(crd.embed_student(s)))
    torch.testing.assert_close(crd.memory_student[ids], moved.detach())
    untouched = torch.ones(10, dtype=torch.bool).index_fill(0, ids, False)
    assert torch.equal(crd.memory_student[untouched], before[untouched])


def test_no_graph_is_kept() -> None:
    crd = CRD(4, 4, 10, dim=8)
    s = torch.randn(3, 4, requires_grad=True)
    for _ in range(2):
        crd(s, s, torch.arange(3)).backward()
    assert not any(buffer.requires_grad for buffer in crd.buffers())


def test_state_dict_resumes_the_same_losses() -> None:
    steps = [(torch.randn(4, 6), torch.randn(4, 5), torch.randperm(20)[:4]) for _ in range(3)]
    one, other = CRD(6, 5, 20, dim=8), CRD(6, 5, 20, dim=8, seed=1)
    one(*steps[0])
    other.load_state_dict(one.state_dict())
    assert [one(*s).item() for s in steps[1:]] == [other(*s).item() for s in steps[1:]]


def test_a_state_without_z_finds_it_anew() -> None:
    crd, batch = CRD(6, 5, 20, dim=8), (torch.randn(4, 6), torch.randn(4, 5), torch.arange(4))
    before = copy.deepcopy(crd.state_dict())
    first = crd(*batch).item(), crd.z_student.item()
    crd(*batch)
    crd.load_state_dict(before)
    assert (crd(*batch).item(), crd.z_student.item()) == first


def test_gradient() -> None:
    crd = CRD(4, 5, 10, dim=3, negatives=20, labels=torch.arange(10) % 3).double()
    crd.eval().load_state_dict(crd.state_dict() | {"z_student": torch.tensor(9.0), "z_teacher": torch.tensor(9.0)})
    t, ids = torch.randn(3, 5).double(), torch.arange(3)
    assert torch.autograd.gradcheck(lambda s: crd(s, t, ids), torch.randn(3, 4).double().requires_grad_())


def test_learns_to_tell_samples_apart() -> None:
    crd = CRD(8, 8, 64, dim=16, negatives=256)
    student, t = torch.nn.Linear(8, 8), torch.randn(64, 8)
    optimizer = torch.optim.Adam([*crd.parameters(), *student.parameters()], lr=0.01)
    losses = []
    for _ in range(60):
        loss = crd(student(t), t, torch.arange(64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="differ in their number of rows"):
        CRD(4, 4, 10)(torch.zeros(2, 4), torch.zeros(2, 4), torch.arange(3))
    with pytest.raises(ValueError, match="one a sample"):
        CRD(4, 4, 10, labels=torch.arange(9))
    with pytest.raises(ValueError, match="negatives"):
        CRD(4, 4, 10, labels=torch.ones(10))
    with pytest.raises(ValueError, match="negatives"):
        CRD(4, 4, 1)
