"""What the student learns from: a method a file, pure functions, thin modules where there is state.

All of them: teacher tensors are constants (no gradient reaches them); float16 and bfloat16 are computed in float32,
float64 stays; the result is a scalar; shapes are checked at the door with a ValueError; no global random state.
"""

from tuition.losses.cc import cc
from tuition.losses.ckd import ckd, ckd_groups
from tuition.losses.consistency import consistency
from tuition.losses.crd import CRD
from tuition.losses.cross_entropy import cross_entropy
from tuition.losses.dist import dist
from tuition.losses.dkd import dkd
from tuition.losses.hint import Projector, Regressor, hint
from tuition.losses.kd import kd
from tuition.losses.mix import cutmix, cutmix_pick, mixup
from tuition.losses.mse import mse
from tuition.losses.rkd import rkd, rkd_angle, rkd_distance
from tuition.losses.rkd_projected import orthonormal_projection, rkd_projected
from tuition.losses.standardised_kd import standardised_kd
from tuition.losses.tf_fd import tf_fd
from tuition.losses.vid import VID

__all__ = [
    "CRD",
    "VID",
    "Projector",
    "Regressor",
    "cc",
    "ckd",
    "ckd_groups",
    "consistency",
    "cross_entropy",
    "cutmix",
    "cutmix_pick",
    "dist",
    "dkd",
    "hint",
    "kd",
    "mixup",
    "mse",
    "orthonormal_projection",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "rkd_projected",
    "standardised_kd",
    "tf_fd",
]
