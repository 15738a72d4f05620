"""Values printed in Xu et al., Comparative Knowledge Distillation, WACV 2025 (arXiv 2311.02253)."""

from __future__ import annotations

BASELINES = ("kd", "rkd", "dist", "mixup", "crd")  # with which table 1 compares CKD
CKD = ("ckd_published", "ckd")  # our names for the paper's CKD; the first that was run is compared with it
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
        "fitnets_crd": ((41.59, 1.18), (32.62, 2.55), (21.20, 1.59)),
        "fitnets_ckd": ((47.78, 0.96), (41.43, 2.29), (31.72, 2.46)),
        "vid": ((42.70, 0.97), (37.40, 1.33), (28.82, 1.34)),
        "vid_crd": ((45.29, 1.19), (36.28, 1.00), (26.53, 2.47)),
        "vid_ckd": ((47.23, 1.27), (41.52, 1.69), (32.99, 1.06)),
    },
    ("vgg13", "vgg8"): {
        "fitnets": ((39.27, 1.44), (33.98, 1.41), (27.12, 1.85)),
        "fitnets_crd": ((36.89, 0.83), (32.24, 1.12), (24.96, 1.72)),
        "fitnets_ckd": ((40.91, 0.97), (36.18, 0.91), (30.15, 1.53)),
        "vid": ((40.87, 1.09), (35.87, 1.02), (29.29, 1.28)),
        "vid_crd": ((39.88, 1.18), (34.74, 1.29), (28.23, 1.01)),
        "vid_ckd": ((41.19, 0.54), (36.97, 0.59), (29.73, 1.32)),
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
