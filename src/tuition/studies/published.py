"""Values printed in Xu et al., Comparative Knowledge Distillation, WACV 2025 (arXiv 2311.02253), and names in print."""

from __future__ import annotations

LABELS = {
    **{name: name.upper() for name in ("kd", "rkd", "crd", "ckd", "dist", "mse", "vid")},
    "ce": "labels only",
    "ckd_published": "CKD, published form",
    "ckd_pairs": "CKD, sampled pairs",
    "mixup": "Mixup",
    "cutmix": "CutMix",
    "cutmixpick": "CutMixPick",
    "fitnets": "FitNets",
    "tf_fd": "Tf-FD",
    "cifar100": "CIFAR-100",
    "stanford_cars": "Stanford Cars",
    "digits": "digits",
}


def label(name: str) -> str:
    """A method, model or data set as papers print it: "kd" is KD, "fitnets+ckd" FitNets + CKD, "wrn_16_2" WRN-16-2."""
    if name in LABELS:
        return LABELS[name]
    if "+" in name:
        return " + ".join(label(part) for part in name.split("+"))
    base, bracket, variant = name.partition(" [")
    if bracket:
        return f"{label(base)} [{variant}"
    return name.upper().replace("_", "-") if name.startswith(("wrn_", "vgg")) else name
