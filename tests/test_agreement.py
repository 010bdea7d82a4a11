"""Clips of real videos are the same to within three grey levels whatever form they are stored in."""

import pytest
from media import real_clips, shades, write_video

from benchmarks import agreement

SETS = ("other", "ucf101", "weizmann", "fights")  # `other` holds clips of HMDB51


@pytest.mark.parametrize("size", [64, 112, 224])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in SETS])
def test_real_clips_agree_in_every_form(tmp_path, name, size):
    files = agreement.found_videos(real_clips(name))
    files = files[::max(len(files) // 12, 1)]
    for kind, row in agreement.differences(files, tmp_path, size=size, duration=8).items():
        print(f"{name} {size} {kind}: mean {row.mean:.2f}, worst clip {row.worst:.2f}, greatest {row.greatest}")
        assert row.mean < 3 and row.worst < 3


def test_the_table_is_printed(tmp_path, capsys):
    for name, sizes in (("a", (300, 400)), ("b", (24, 32))):
        write_video(tmp_path / "some" / f"{name}.avi", shades(5, *sizes))
    agreement.main([str(tmp_path / "some"), "--sample_size", "16", "--sample_duration", "4"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[3].strip() for row in rows] == ["jpg", "hdf5", "packed"]
    assert all(row[:2] == [" some ", " 2 "] and float(row[5]) < 3 and int(row[6]) < 12 for row in rows)
    with pytest.raises(SystemExit) as stop:
        agreement.main([str(tmp_path / "nowhere")])
    assert stop.value.code == 2 and "nowhere" in capsys.readouterr().err
