"""Mixed inputs with targets mixed alike: Mixup, CutMix, and CutMix with picking."""

import numpy as np
import torch
from torch import Tensor


def mixup(
    inputs: Tensor,
    *targets: Tensor,
    alpha: float = 1.0,
    partners: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """lambda x + (1 - lambda) x[order] of inputs and of every target, one lambda ~ Beta(alpha, alpha) a batch.

    Cached teacher distributions are mixed like labels, so a mix costs no teacher call.

    Args:
        inputs: (n, ...) floating, or uint8, which becomes float32.
        targets: any number of them, (n, k): probabilities or one-hot; logits, where a loss is linear in its target.
        alpha: 1 is the uniform distribution.
        partners: (n,) rows that these are mixed with; None draws a permutation.
        generator: on any device; None is PyTorch's default generator.

    Returns:
        (inputs, *targets), of the same shapes and on the same devices.

    Raises:
        ValueError: a target is not (n, k), or the inputs are integers other than uint8.

    Source: mixup: Beyond Empirical Risk Minimization, arXiv 1710.09412.
    """
    _check(inputs, targets)
    if not inputs.is_floating_point() and inputs.dtype != torch.uint8:
        raise ValueError(f"inputs to mix must be floating or uint8, but are {inputs.dtype}")
    order, weight = _order(inputs, generator) if partners is None else partners, _beta(alpha, generator)
    return tuple(_blend(x, order, weight) for x in (inputs, *targets))


def cutmix(
    inputs: Tensor,
    *targets: Tensor,
    alpha: float = 1.0,
    even: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """Paste one box of x[order] into x; targets are mixed by area, one box a batch.

    The box has the image's proportions and the area 1 - lambda, lambda ~ Beta(alpha, alpha), around a uniform centre.
    What lies outside is cut off, and lambda corrected to the area pasted.

    Args:
        inputs: (n, ..., h, w), any dtype.
        even: cut the sides of the box down to even numbers of pixels, as is common; by default they are rounded.
        targets: as in `mixup`, like the other arguments, the result and the errors.

    Source: CutMix, arXiv 1905.04899.
    """
    _check(inputs, targets)
    order = _order(inputs, generator)
    h, w = inputs.shape[-2:]
    side = (1 - _beta(alpha, generator)) ** 0.5
    top, bottom = _cut(h, side, even, generator)
    left, right = _cut(w, side, even, generator)
    mixed = inputs.clone()
    mixed[..., top:bottom, left:right] = inputs[order][..., top:bottom, left:right]
    area = (bottom - top) * (right - left) / (h * w)
    return mixed, *(_blend(x, order, 1 - area) for x in targets)


def cutmix_pick(
    inputs: Tensor,
    *targets: Tensor,
    candidates: int = 2,
    alpha: float = 1.0,
    even: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """The n most uncertain of `candidates` n CutMixes: those of the highest entropy of the last target.

    The last target is the teacher's distribution, mixed from the cached answers: the free form. Asking the teacher
    about the mixes themselves, as published, costs a call for each candidate. `candidates` batches are mixed, each with
    its own box and order; the rest is as in `cutmix`.

    Raises:
        ValueError: as in `mixup`, or no target.

    Source: What Makes a "Good" Data Augmentation in Knowledge Distillation, arXiv 2012.02909.
    """
    if not targets:
        raise ValueError("cutmix_pick picks by the entropy of the last target, but there are no targets")
    batches = [cutmix(inputs, *targets, alpha=alpha, even=even, generator=generator) for _ in range(candidates)]
    mixed = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    entropy = -torch.special.xlogy(mixed[-1], mixed[-1]).sum(dim=1)
    picked = entropy.topk(len(inputs)).indices.sort().values
    return tuple(x[picked.to(x.device)] for x in mixed)


def _check(inputs: Tensor, targets: tuple[Tensor, ...]) -> None:
    for target in targets:
        if target.ndim != 2 or len(target) != len(inputs):
            raise ValueError(
                f"targets to mix must be probabilities or one-hot, ({len(inputs)}, k), but one has shape "
                f"{tuple(target.shape)}"
            )


def _blend(x: Tensor, order: Tensor, weight: float) -> Tensor:
    x = x if x.is_floating_point() else x.float()
    return torch.lerp(x[order.to(x.device)], x, weight)


def _order(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    order = torch.randperm(len(inputs), generator=generator, device=device)
    # CUDA takes so few bytes from the host at once; so nothing waits for the device.
    return order.to(inputs.device, non_blocking=inputs.is_cuda)


def _integer(high: int, generator: torch.Generator | None) -> int:
    device = generator.device if generator is not None else "cpu"
    return int(torch.randint(high, (), generator=generator, device=device))


def _beta(alpha: float, generator: torch.Generator | None) -> float:
    """PyTorch draws Beta from its global state only, so its generator seeds NumPy's."""
    return np.random.default_rng(_integer(2**63 - 1, generator)).beta(alpha, alpha)


def _cut(length: int, share: float, even: bool, generator: torch.Generator | None) -> tuple[int, int]:
    """An interval of about share * length around a uniform centre, cut off at the borders."""
    centre, size = _integer(length, generator), int(share * length) // 2 * 2 if even else round(share * length)
    start = centre - size // 2
    return max(start, 0), min(start + size, length)
