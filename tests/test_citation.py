"""CITATION.cff: valid in the format's version 1.2.0, and about this package and its paper."""

import json
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

import dynagent

ROOT = Path(__file__).resolve().parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
# Keys of the schema 1.2.0 that may stand at the top, in a reference, and in an author.
TOP = {
    "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords",
    "license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact",
    "repository-code", "title", "type", "url", "version",
}  # fmt: skip
REFERENCE = TOP - {"cff-version", "message", "preferred-citation", "references"} | {"scope", "journal", "year", "month"}
PERSON = {"affiliation", "alias", "email", "family-names", "given-names", "name-particle", "name-suffix", "orcid"}
ENTITY = {"name", "alias", "email", "website", "date-start", "date-end", "location", "orcid", "country", "city"}


def test_the_file_has_what_the_format_asks_for():
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(CITATION) <= TOP
    assert CITATION["type"] in ("software", "dataset")
    assert all(isinstance(CITATION[key], str) for key in ("message", "title", "version", "license", "abstract"))
    assert len(CITATION["keywords"]) == len(set(CITATION["keywords"]))


@pytest.mark.parametrize("work", [CITATION, *CITATION["references"]], ids=lambda work: work["title"])
def test_authors_are_people_or_a_group(work):
    assert work["authors"]
    for author in work["authors"]:
        assert set(author) <= (ENTITY if "name" in author else PERSON)
        assert "name" in author or {"family-names", "given-names"} <= set(author)


def test_the_package_is_named_as_it_is():
    assert CITATION["authors"] == [{"name": "dynagent contributors"}]
    assert CITATION["version"] == dynagent.__version__
    assert CITATION["license"] == "MIT"


def test_the_paper_is_cited():
    (paper,) = CITATION["references"]
    assert {"type", "title", "authors"} <= set(paper) <= REFERENCE
    assert paper["title"] == "Input Conditioned Graph Generation for Language Agents"
    assert [author["family-names"] for author in paper["authors"]] == ["Vierling", "Fu", "Chen"]
    assert date(paper["year"], paper["month"], 1) == date(2024, 6, 1)
    assert {entry["type"]: entry["value"] for entry in paper["identifiers"]} == {
        "doi": "10.48550/arXiv.2406.11555",
        "other": "arXiv:2406.11555",
    }
    assert all(set(entry) <= {"type", "value", "description"} for entry in paper["identifiers"])
    assert paper["url"].endswith("2406.11555")


def test_the_repository_is_the_package_s():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert CITATION["repository-code"] == CITATION["url"] == urls["Repository"]


def test_the_archive_is_described_alike():
    archive = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    assert archive["title"] == CITATION["title"]
    assert archive["license"] == CITATION["license"]
    assert archive["keywords"] == CITATION["keywords"]
    assert [creator["name"] for creator in archive["creators"]] == [author["name"] for author in CITATION["authors"]]
    assert "version" not in archive  # Zenodo takes it from the release's tag
