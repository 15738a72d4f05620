"""Values printed in Xu et al., Comparative Knowledge Distillation, WACV 2025 (arXiv 2311.02253), and names in print."""

from __future__ import annotations

LABELS = {
    **{name: name.upper() for name in ("kd", "rkd", "crd", "ckd", "cc", "dist", "mse", "vid")},
    "ce": "labels only",
    "ckd_exact": "CKD, no anchor",
    "ckd_exact_recentred": "CKD, recentred",
    "ckd_published": "CKD, published",
    "ckd_published_recentred": "CKD, publ., recentred",
    "ckd_2_1": "CKD, 2 against 1",
    "ckd_2_2": "CKD, 2 against 2",
    "mixup": "Mixup",
    "cutmix": "CutMix",
    "cutmix_pick": "CutMixPick",
    "fitnets": "FitNets",
    "tf_fd": "Tf-FD",
    "cifar100": "CIFAR-100",
    "stanford_cars": "Stanford Cars",
}


def label(name: str) -> str:
    """A method, model or data set as papers print it: KD, FitNets + CKD, RKD (10 dims), WRN-16-2."""
    base, bracket, variant = name.partition(" [")
    parts = plus(base).split("+")
    if len(parts) > 1:
        printed = " + ".join(map(label, parts))
    elif base.startswith("rkd_"):
        dimensions, _, alone = base[4:].partition("_")
        printed = f"RKD ({dimensions} dims{', alone' if alone else ''})"
    elif base.startswith(("wrn_", "vgg")):
        printed = base.upper().replace("_", "-")
    elif base.startswith("resnet"):
        printed = f"ResNet{base[6:]}"
    else:
        printed = LABELS.get(base, base)
    return printed + bracket + variant


def plus(method: str) -> str:
    """White-box methods by their parts: "fitnets_ckd" is "fitnets+ckd"."""
    first, _, rest = method.partition("_")
    return f"{first}+{rest}" if first in ("fitnets", "vid") and rest else method


TEACHER_ACCURACY = {"vgg13": 74.64, "wrn_40_2": 75.61, "resnet110": 74.31}  # CIFAR-100 test, percent
STUDENT_ACCURACY = {"vgg8": 70.36, "wrn_16_2": 73.26, "resnet32": 71.14}  # on all labels, without a teacher

BASELINES = ("kd", "rkd", "dist", "mixup", "crd")  # what table 1 compares CKD with
TABLE1_TARGETS = (55, 50, 45, 40, 35, 30)  # test accuracy on CIFAR-100, percent
# (teacher, student) -> method -> thousands of teacher calls for each target; None: out of range
TABLE1: dict[tuple[str, str], dict[str, tuple[float | None, ...]]] = {
    ("wrn_40_2", "wrn_16_2"): {
        "kd": (None, 4.37, 3.45, 2.80, 2.29, 1.72),
        "rkd": (5.98, 4.63, 3.83, 3.13, 2.46, 2.02),
        "dist": (5.88, 4.59, 3.82, 2.69, 2.27, 1.97),
        "mixup": (5.90, 3.95, 3.03, 2.30, 1.71, None),
        "crd": (5.20, 3.96, 3.35, 2.56, 2.08, 1.65),
        "ckd": (3.97, 3.11, 2.34, 1.84, None, None),
    },
    ("resnet110", "resnet32"): {
        "kd": (None, 5.07, 3.89, 3.14, 2.50, 1.97),
        "rkd": (None, 5.00, 3.76, 3.34, 2.70, 2.19),
        "dist": (6.34, 5.13, 3.95, 3.16, 2.63, 2.19),
        "mixup": (None, 4.58, 3.33, 2.38, 1.87, None),
        "crd": (5.50, 3.97, 3.39, 2.76, 2.22, 1.85),
        "ckd": (4.61, 3.40, 2.62, 2.18, 1.86, 1.66),
    },
    ("vgg13", "vgg8"): {
        "kd": (None, 5.44, 3.99, 3.10, 2.37, 1.69),
        "rkd": (None, 5.57, 4.32, 3.37, 2.59, 1.92),
        "dist": (None, 5.10, 3.97, 3.03, 2.29, 1.75),
        "mixup": (None, 5.86, 3.93, 2.91, 2.04, None),
        "crd": (None, 5.10, 3.90, 2.93, 2.20, 1.62),
        "ckd": (5.92, 4.22, 3.08, 2.23, 1.69, None),
    },
}

TABLE2_CALLS = (3200, 2400, 1600)
# (teacher, student) -> method -> (mean, std) of test accuracy on CIFAR-100 for each number of calls
TABLE2: dict[tuple[str, str], dict[str, tuple[tuple[float, float], ...]]] = {
    ("wrn_40_2", "wrn_16_2"): {
        "fitnets": ((39.44, 4.50), (30.90, 3.67), (24.08, 0.74)),
        "fitnets+crd": ((41.59, 1.18), (32.62, 2.55), (21.20, 1.59)),
        "fitnets+ckd": ((47.78, 0.96), (41.43, 2.29), (31.72, 2.46)),
        "vid": ((42.70, 0.97), (37.40, 1.33), (28.82, 1.34)),
        "vid+crd": ((45.29, 1.19), (36.28, 1.00), (26.53, 2.47)),
        "vid+ckd": ((47.23, 1.27), (41.52, 1.69), (32.99, 1.06)),
    },
    ("vgg13", "vgg8"): {
        "fitnets": ((39.27, 1.44), (33.98, 1.41), (27.12, 1.85)),
        "fitnets+crd": ((36.89, 0.83), (32.24, 1.12), (24.96, 1.72)),
        "fitnets+ckd": ((40.91, 0.97), (36.18, 0.91), (30.15, 1.53)),
        "vid": ((40.87, 1.09), (35.87, 1.02), (29.29, 1.28)),
        "vid+crd": ((39.88, 1.18), (34.74, 1.29), (28.23, 1.01)),
        "vid+ckd": ((41.19, 0.54), (36.97, 0.59), (29.73, 1.32)),
    },
}


def table1(dataset: str, teacher: str, student: str) -> dict[str, dict[float, float]]:
    """Published calls by method and target accuracy; empty for a pair the paper does not have."""
    rows = TABLE1.get((teacher, student), {}) if dataset == "cifar100" else {}
    return {
        method: {target: round(1000 * k) for target, k in zip(TABLE1_TARGETS, calls, strict=True) if k is not None}
        for method, calls in rows.items()
    }


def table2(dataset: str, teacher: str, student: str) -> dict[str, dict[int, tuple[float, float]]]:
    """Published (mean, std) by method and calls; empty for a pair the paper does not have."""
    rows = TABLE2.get((teacher, student), {}) if dataset == "cifar100" else {}
    return {method: dict(zip(TABLE2_CALLS, values, strict=True)) for method, values in rows.items()}
