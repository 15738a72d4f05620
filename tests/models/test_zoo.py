import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tuition import models
from tuition.errors import UserError

# Published counts at 3x32x32 and 100 classes, in the family of Tian et al. 2020.
COUNTS = {
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "wrn_16_2": 703_284,
    "wrn_40_2": 2_255_156,
    "resnet32": 472_756,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameter_counts(name, count):
    assert models.num_parameters(models.create(name, num_classes=100)) == count
