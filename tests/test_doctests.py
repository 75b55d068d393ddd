"""The examples in the docstrings, run."""

import doctest
import importlib
import pkgutil

import dynagent


def test_the_examples_in_the_docstrings_give_what_they_say():
    names = [dynagent.__name__, *(found.name for found in pkgutil.walk_packages(dynagent.__path__, "dynagent."))]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) >= 4
