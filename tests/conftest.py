"""What every test relies on: a data cache of its own, and one thread, so that results repeat and cores are shared."""

import os
import signal

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
for number in (signal.SIGINT, signal.SIGHUP):  # ignored where the suite runs in the background of a script
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
hypothesis.settings.register_profile("no deadline", deadline=None)  # a slow example is not a wrong one
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["TUITION_CACHE"] = str(tmp_path_factory.mktemp("cache"))
