"""What the student learns from: a method a file, pure functions, thin modules where there is state.

All of them: teacher tensors are constants (no gradient reaches them); float16 and bfloat16 are computed in float32,
float64 stays; the result is a scalar; shapes are checked at the door with a ValueError; no global random state.
"""

from tuition.losses.ckd import ckd, ckd_groups
from tuition.losses.cross_entropy import cross_entropy
from tuition.losses.kd import kd
from tuition.losses.mse import mse

__all__ = ["ckd", "ckd_groups", "cross_entropy", "kd", "mse"]
