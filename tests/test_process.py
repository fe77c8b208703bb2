"""Settings that a program makes for its whole process."""

import os

from flossing_lab.runs.process import limit_folder


def test_a_folder_keeps_what_was_used_last(tmp_path):
    for age, name in enumerate(["newest", "second", "third", "oldest"]):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    os.utime(tmp_path / "third", (2e9, 1e9 - 2))  # read since
    limit_folder(tmp_path, 25)
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "third"}
    limit_folder(tmp_path / "none", 25)
