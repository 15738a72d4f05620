import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """Nothing is read from or left in the user's own cache."""
    folder = tmp_path_factory.mktemp("caches") / "cache"
    monkeypatch.setenv("TUITION_CACHE", str(folder))
    return folder
