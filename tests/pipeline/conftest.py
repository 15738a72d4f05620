"""Teachers and pools that a test made, instead of those that settings name."""

from collections.abc import Callable

import pytest

from tuition.data import Pool, TransferSet
from tuition.pipeline import job
from tuition.pipeline.checks import check_ask
from tuition.pipeline.settings import Asking
from tuition.pipeline.sources import Sources
from tuition.teachers import Teacher


class Made(Sources):
    def __init__(self, teacher: Teacher, pool: Pool | None = None) -> None:
        super().__init__()
        self.made, self.given = teacher, pool

    def teacher(self, settings: Asking) -> Teacher:
        return self.made

    def pool(self, *arguments, **options) -> Pool:
        return self.given or super().pool(*arguments, **options)


Ask = Callable[..., tuple[TransferSet, Pool | TransferSet]]


@pytest.fixture
def ask() -> Ask:
    """Ask a teacher, as `tuition ask` does."""

    def asked(settings: Asking, teacher: Teacher, pool: Pool | None = None) -> tuple[TransferSet, Pool | TransferSet]:
        return job.ask(settings, check_ask(settings, Made(teacher, pool)))

    return asked
