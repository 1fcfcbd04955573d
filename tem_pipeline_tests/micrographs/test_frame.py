import numpy as np
import pytest

from tem_pipeline.micrographs.frame import labels_on_frame


@pytest.mark.parametrize("turns", range(4))
def test_a_label_on_any_side_of_the_frame_is_found(turns):
    labels = np.zeros((5, 7), np.uint16)
    labels[0, 3] = 9
    labels[2, 3] = 4
    assert labels_on_frame(np.rot90(labels, turns)).tolist() == [9]


def test_labels_inside_and_the_background_are_not_on_the_frame():
    labels = np.zeros((5, 7), np.uint32)
    assert labels_on_frame(labels).size == 0
    labels[1:4, 1:6] = 1
    assert labels_on_frame(labels).size == 0
    labels[1:5, 1] = 70_000
    assert labels_on_frame(labels).tolist() == [70_000]
