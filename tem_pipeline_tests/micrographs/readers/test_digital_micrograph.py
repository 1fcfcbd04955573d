import numpy as np

from tem_pipeline_tests.micrographs.readers.files import refusal


def test_a_damaged_length_is_refused_at_once(formats, tmp_path):
    data = (formats / "dm/test_STEM_image.dm3").read_bytes()
    array = b"%%%%" + np.array([3, 20], ">i4").tobytes()
    at = data.index(array) + len(array) + 4
    (tmp_path / "a.dm3").write_bytes(data[:at] + np.array(2**31 - 1, ">i4").tobytes() + data[at + 4 :])
    assert "longer than the file" in refusal(tmp_path / "a.dm3")
