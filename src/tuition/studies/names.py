"""Methods, models and data sets as papers print them."""

from __future__ import annotations

PRINTED = {
    **{name: name.upper() for name in ("kd", "rkd", "crd", "ckd", "cc", "dist", "mse", "vid")},
    "ce": "labels only",
    "ckd_exact": "CKD, no anchor",
    "ckd_exact_recentred": "CKD, recentred",
    "ckd_published": "CKD, published",
    "ckd_published_no_decay": "CKD, publ., no decay",
    "ckd_published_decay": "CKD, publ., decay 5e-3",
    "ckd_published_recentred": "CKD, publ., recentred",
    "ckd_rounds": "CKD, rounds + unasked",
    "ckd_2_1": "CKD, 2 against 1",
    "ckd_2_2": "CKD, 2 against 2",
    "mixup": "Mixup",
    "cutmix": "CutMix",
    "cutmix_pick": "CutMixPick",
    "tf_fd": "Tf-FD",
    "fitnets": "FitNets",
    "fitnets_crd": "FitNets + CRD",
    "fitnets_ckd": "FitNets + CKD",
    "fitnets_ckd_published": "FitNets + CKD, published",
    "vid_crd": "VID + CRD",
    "vid_ckd": "VID + CKD",
    "vid_ckd_published": "VID + CKD, published",
    **{f"rkd_{n}": f"RKD ({n} dims)" for n in (10, 50, 100)},
    **{f"rkd_{n}_alone": f"RKD ({n} dims, alone)" for n in (10, 50, 100)},
    "cifar100": "CIFAR-100",
    "stanford_cars": "Stanford Cars",
}


def label(name: str) -> str:
    """The printed name: KD, CKD [anchor=0.3], WRN-16-2; a name without one is printed as it is."""
    base, bracket, variant = name.partition(" [")
    if base.startswith(("wrn_", "vgg")):
        printed = base.upper().replace("_", "-")
    elif base.startswith("resnet"):
        printed = f"ResNet{base.removeprefix('resnet')}"
    else:
        printed = PRINTED.get(base, base)
    return printed + bracket + variant
