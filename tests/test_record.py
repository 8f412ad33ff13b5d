import importlib.metadata

import distillers
from distillers.record import environment


def test_a_clone_that_is_not_installed_tells_its_version(monkeypatch):
    installed = importlib.metadata.version

    def version(name):
        if name == "distillers":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = environment()
    assert found["distillers"] == distillers.__version__
    assert found["torch"]
