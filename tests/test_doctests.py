"""The examples in the docstrings, run."""

import doctest
import importlib
import pkgutil

import dynagent
import studies


def test_the_examples_in_the_docstrings_give_what_they_say():
    names = ["dynagent", "studies"]
    for package in (dynagent, studies):
        names += [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) >= 8
