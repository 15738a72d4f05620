import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Nothing is read from or left in the user's own cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TUITION_CACHE", str(folder))
    return folder
