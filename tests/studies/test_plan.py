"""Studies as files: written, read again, refused where they are of another make."""

import json

import pytest

from xtra_rl.studies import PlannedRun, Study, System, read_study, write_study

STUDY = Study(
    experiment="table1",
    title="Similar games",
    scale="smoke",
    tables=("table1",),
    figures=(),
    systems=(System("xtra", "XTRA", "xtra_finetune", ("pretrained=true",), "XTRA"),),
    targets=("assault", "alien"),
    seeds=(0, 1),
    runs=(PlannedRun("xtra", "assault", 0, ("target=assault", "seed=0"), "runs/xtra/assault-s0"),),
)


def test_a_study_is_read_as_it_was_written(tmp_path):
    write_study(tmp_path / "new", STUDY)
    assert read_study(tmp_path / "new") == STUDY


def test_a_system_is_found_by_name():
    assert STUDY.system("xtra").label == "XTRA"
    with pytest.raises(ValueError, match="no system 'curl'; it has xtra"):
        STUDY.system("curl")


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no study.json"):
        read_study(tmp_path)
    path = write_study(tmp_path, STUDY)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "runs"}))
    with pytest.raises(ValueError, match="not a study of this library"):
        read_study(tmp_path)
    path.write_text(json.dumps(content | {"version": 9}))
    with pytest.raises(ValueError, match="not a study of this library .*version"):
        read_study(tmp_path)
