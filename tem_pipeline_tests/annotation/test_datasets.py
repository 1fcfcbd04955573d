import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tem_pipeline.annotation.datasets import (
    check_annotated_set,
    combine_sets,
    read_annotated_set,
)
from tem_pipeline.errors import UserError
from tem_pipeline_tests.annotation.fields import exposed, field_of_discs


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, image)
    else:
        Image.fromarray(image).save(path)
    return path


def make_set(folder: Path, count: int = 3, seed: int = 0, size: int = 96) -> Path:
    """Write images of unrelated discs with binary masks."""
    for index in range(count):
        image, mask = field_of_discs(seed + index, (size, size), density=2e-3)
        save(folder / "images" / f"im{index}.png", exposed(image, index))
        save(folder / "masks" / f"im{index}.png", mask.astype(np.uint8) * 255)
    return folder


def mask_of(folder: Path, name: str = "im0") -> np.ndarray:
    with Image.open(folder / "masks" / f"{name}.png") as picture:
        return np.asarray(picture)


def test_the_reference_set_is_read_with_its_sources(reference_data):
    loaded = read_annotated_set(reference_data / "bright_field_particles")
    assert len(loaded.images) == 20
    assert loaded.classes == ("background", "core")
    assert len({image.group for image in loaded.images}) == 17
    for image in loaded.images:
        assert image.image.shape == image.class_map.shape == (512, 512)
        assert image.image.dtype == np.float32
        assert image.mode == "bright_field"
        # Particles are dark, so their standardised intensities are negative.
        assert image.image[image.class_map == 1].mean() < -0.5


def test_a_binary_mask_becomes_the_class_map(tmp_path):
    loaded = read_annotated_set(make_set(tmp_path / "s"))
    assert [image.name for image in loaded.images] == ["im0", "im1", "im2"]
    for image in loaded.images:
        np.testing.assert_array_equal(image.class_map, mask_of(tmp_path / "s", image.name) > 0)
        assert image.instances is None
        assert image.class_map.dtype == np.uint8


def test_a_mask_of_labels_gives_instances_too(tmp_path):
    folder = make_set(tmp_path / "s")
    labels = np.zeros((96, 96), np.uint16)
    labels[10:20, 10:20], labels[10:20, 20:30], labels[50:60, 50:60] = 1, 2, 700
    (folder / "masks" / "im0.png").unlink()
    save(folder / "masks" / "im0.tif", labels)
    first = read_annotated_set(folder).images[0]
    np.testing.assert_array_equal(first.instances, labels)
    np.testing.assert_array_equal(first.class_map, labels > 0)


def test_shells_give_three_classes_with_the_core_last(tmp_path):
    folder = make_set(tmp_path / "s", count=1)
    core, whole = np.zeros((2, 96, 96), np.uint8)
    core[30:40, 30:40], whole[25:45, 25:45] = 255, 255
    save(folder / "masks" / "im0.png", core)
    save(folder / "shells" / "im0.png", whole)
    loaded = read_annotated_set(folder)
    assert loaded.classes == ("background", "shell", "core")
    counts = np.sum([np.bincount(image.class_map.ravel(), minlength=3) for image in loaded.images], axis=0)
    assert counts.tolist() == [96 * 96 - 400, 300, 100]
    assert loaded.images[0].class_map[35, 35] == 2
    assert loaded.images[0].class_map[26, 26] == 1


def test_a_mask_without_particles_is_accepted(tmp_path):
    folder = make_set(tmp_path / "s")
    save(folder / "masks" / "im1.png", np.zeros((96, 96), np.uint8))
    assert not read_annotated_set(folder).images[1].class_map.any()


def test_a_jpeg_mask_is_read_as_black_and_white(tmp_path):
    folder = make_set(tmp_path / "s", count=1)
    mask = mask_of(folder)
    (folder / "masks" / "im0.png").unlink()
    Image.fromarray(mask).save(folder / "masks" / "im0.jpg", quality=90)
    read = read_annotated_set(folder).images[0].class_map
    assert np.mean(read != (mask > 0)) < 0.005


def test_grey_masks_saved_as_colour_are_read(tmp_path):
    folder = make_set(tmp_path / "s", count=1)
    mask = mask_of(folder)
    save(folder / "masks" / "im0.png", np.stack([mask] * 3, axis=-1))
    np.testing.assert_array_equal(read_annotated_set(folder).images[0].class_map, mask > 0)


def test_particles_are_dark_after_reading_in_haadf_too(tmp_path):
    bright = make_set(tmp_path / "haadf")
    for file in (bright / "images").iterdir():
        with Image.open(file) as picture:
            inverted = 255 - np.asarray(picture)
        save(file, inverted)
    for image in read_annotated_set(bright).images:
        assert image.mode == "haadf"
        assert image.image[image.class_map == 1].mean() < -0.5


def fault_files(folder: Path) -> dict[str, Callable[[], object]]:
    """Ways to spoil im0 of a set of two."""
    mask = mask_of(folder)
    masks, images = folder / "masks", folder / "images"
    colour = np.stack([mask, mask // 2, mask], axis=-1)
    coded = (np.indices((96, 96)).sum(axis=0) // 8 % 3).astype(np.uint8)
    return {
        "no mask": (masks / "im0.png").unlink,
        "no image": (images / "im0.png").unlink,
        "other size": lambda: save(masks / "im0.png", mask[:90]),
        "other value": lambda: save(masks / "im0.png", mask // 2),
        "16-bit white": lambda: save(masks / "im0.png", mask.astype(np.uint16) * 257),
        "colour": lambda: save(masks / "im0.png", colour),
        "fractions": lambda: (
            (masks / "im0.png").unlink(),
            save(masks / "im0.tif", mask.astype(np.float32) / 510),
        ),
        "negative": lambda: (
            (masks / "im0.png").unlink(),
            save(masks / "im0.tif", mask.astype(np.int16) - 3),
        ),
        "stack": lambda: ((masks / "im0.png").unlink(), save(masks / "im0.tif", np.stack([mask] * 7))),
        "class codes": lambda: save(masks / "im0.png", coded),
        "two images": lambda: save(images / "im0.tif", mask),
        "not an image": lambda: (images / "im0.png").write_bytes(b"no picture"),
        "constant image": lambda: save(images / "im0.png", np.full((96, 96), 9, np.uint8)),
        "text as mask": lambda: (masks / "im0.png").rename(masks / "im0.txt"),
    }


@pytest.mark.parametrize(
    ("fault", "file", "says"),
    [
        ("no mask", "images/im0.png", "has no masks/im0.png"),
        ("no image", "masks/im0.png", "has no image with this name"),
        ("other size", "masks/im0.png", "90x96 px and its image 96x96 px"),
        ("other value", "masks/im0.png", "its only values are 0, 127"),
        ("16-bit white", "masks/im0.png", "its only values are 0, 65535"),
        ("colour", "masks/im0.png", "colo"),
        ("fractions", "masks/im0.tif", "whole numbers"),
        ("negative", "masks/im0.tif", "whole numbers"),
        ("stack", "masks/im0.tif", "holds 7 images"),
        ("class codes", "masks/im0.png", "code classes"),
        ("two images", "images/im0.tif", "the same name"),
        ("not an image", "images/im0.png", "damaged"),
        ("constant image", "images/im0.png", "same value"),
        ("text as mask", "masks/im0.txt", "is a .png"),
    ],
)
def test_each_fault_is_named_with_its_file_in_one_line(tmp_path, fault, file, says):
    folder = make_set(tmp_path / "s", count=2)
    fault_files(folder)[fault]()
    (found,) = check_annotated_set(folder)
    assert found.startswith(f"{file}: ")
    assert says in found
    assert "\n" not in found
    with pytest.raises(UserError) as error:
        read_annotated_set(folder)
    assert file in str(error.value)


def test_all_faults_are_counted_and_the_first_few_shown(tmp_path):
    folder = make_set(tmp_path / "s", count=5)
    for index in range(5):
        save(folder / "masks" / f"im{index}.png", np.zeros((8, 8), np.uint8))
    assert len(check_annotated_set(folder)) == 5
    with pytest.raises(UserError, match=r"5 fault\(s\).*im0.*im1.*im2.*and 2 more"):
        read_annotated_set(folder)


def test_cores_outside_their_shells_are_a_fault(tmp_path):
    folder = make_set(tmp_path / "s", count=1)
    save(folder / "shells" / "im0.png", np.zeros((96, 96), np.uint8))
    (found,) = check_annotated_set(folder)
    assert "draw whole particles" in found


def test_missing_foreign_and_empty_folders_say_what_is_needed(tmp_path):
    assert "does not exist" in check_annotated_set(tmp_path / "nowhere")[0]
    assert "images/NAME.*" in check_annotated_set(tmp_path)[0]
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    assert "images/ is empty" in check_annotated_set(tmp_path)[0]


def test_system_files_are_ignored(tmp_path):
    folder = make_set(tmp_path / "s", count=1)
    for name in (".DS_Store", "Thumbs.db"):
        (folder / "images" / name).write_bytes(b"x")
    assert check_annotated_set(folder) == []


def test_dataset_yaml_gives_sources_and_pixel_size(tmp_path):
    folder = make_set(tmp_path / "s")
    (folder / "dataset.yaml").write_text(
        "mode: bright_field\npixel_size_nm: 0.25\nlicence: CC BY 4.0\ngroups: {im0: 007, im2: 007}\n"
    )
    loaded = read_annotated_set(folder)
    assert [image.group for image in loaded.images] == ["007", "im1", "007"]
    assert [image.source for image in loaded.images] == ["007", None, "007"]
    assert all(image.pixel_size_nm == (0.25, 0.25) for image in loaded.images)
    assert loaded.licence == "CC BY 4.0"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("resolution: 0.1", "'resolution' is unknown"),
        ("mode: dark_field", "mode"),
        ("pixel_size_nm: -1", "pixel_size_nm"),
        ("pixel_size_nm: .nan", "pixel_size_nm"),
        ("groups: {im9: a}", "names 'im9', which is not in images"),
        ("groups: [im0]", "groups"),
        ("groups: {im0: a, im0: b}", "twice"),
        ("notes: &a [x]\nsource: *a", "aliases"),
        ("[" * 30_000, "nested"),
        ("notes: " + "x" * 70_000, "larger than 64 kB"),
        ("!!python/object/apply:os.system ['true']", "lines"),
        ("mode: [", "line"),
    ],
)
def test_a_wrong_or_hostile_dataset_yaml_is_one_fault_in_one_line(tmp_path, content, says):
    folder = make_set(tmp_path / "s", count=1)
    (folder / "dataset.yaml").write_text(content)
    (found,) = check_annotated_set(folder)
    assert found.startswith("dataset.yaml: ")
    assert says in found
    assert "\n" not in found


def test_the_hash_depends_on_pixels_masks_names_and_groups_only(tmp_path):
    folder = make_set(tmp_path / "s")
    hashes = [read_annotated_set(folder).sha256]

    mask = mask_of(folder)
    with Image.open(folder / "images" / "im0.png") as picture:
        image = np.asarray(picture).copy()
    (folder / "images" / "im0.png").unlink()
    save(folder / "images" / "im0.tif", image)
    (folder / "dataset.yaml").write_text("notes: the same pixels in another file type")
    assert read_annotated_set(folder).sha256 == hashes[0]

    (folder / "dataset.yaml").write_text("groups: {im0: grid, im1: grid}")
    hashes.append(read_annotated_set(folder).sha256)
    changed = mask.copy()
    changed[0, 0] ^= 255
    save(folder / "masks" / "im0.png", changed)
    hashes.append(read_annotated_set(folder).sha256)
    image[0, 0] ^= 1
    save(folder / "images" / "im0.tif", image)
    hashes.append(read_annotated_set(folder).sha256)
    for kind, suffix in (("images", ".png"), ("masks", ".png")):
        (folder / kind / f"im2{suffix}").rename(folder / kind / f"other{suffix}")
    hashes.append(read_annotated_set(folder).sha256)
    assert len(set(hashes)) == len(hashes)


def test_sets_are_combined_and_overlaps_across_them_found(tmp_path):
    field, mask = field_of_discs(77, (200, 300))
    for name, left in (("one", 0), ("two", 90)):
        folder = make_set(tmp_path / name, count=2, seed=100 * left)
        save(folder / "images" / "crop.png", exposed(field[:, left : left + 200], left, gamma=1 + left / 200))
        save(folder / "masks" / "crop.png", mask[:, left : left + 200].astype(np.uint8) * 255)
    sets = [read_annotated_set(tmp_path / name) for name in ("one", "two")]
    combined = combine_sets(sets)
    assert combined.name == "one+two"
    assert len(combined.images) == 6
    group = {image.name: image.group for image in combined.images}
    assert group["one/crop"] == group["two/crop"]
    assert len(set(group.values())) == 5
    assert combine_sets(sets[:1]) is sets[0]


def test_sources_of_equal_name_in_two_sets_are_one_source(tmp_path):
    for name in ("one", "two"):
        folder = make_set(tmp_path / name, count=2, seed=len(name) + ord(name[0]))
        (folder / "dataset.yaml").write_text("groups: {im0: grid 3}")
    combined = combine_sets([read_annotated_set(tmp_path / name) for name in ("one", "two")])
    assert [image.group for image in combined.images] == ["grid 3", "one/im1", "grid 3", "two/im1"]


def test_sets_with_different_classes_or_equal_names_are_not_combined(tmp_path):
    bare = read_annotated_set(make_set(tmp_path / "bare", count=1))
    shelled_folder = make_set(tmp_path / "shelled", count=1)
    save(shelled_folder / "shells" / "im0.png", mask_of(shelled_folder))
    with pytest.raises(UserError, match="add shells/ to bare"):
        combine_sets([read_annotated_set(shelled_folder), bare])
    with pytest.raises(UserError, match="rename"):
        combine_sets([bare, read_annotated_set(make_set(tmp_path / "elsewhere" / "bare", count=1))])
    with pytest.raises(UserError, match="no annotated set"):
        combine_sets([])


def test_importing_annotation_and_training_loads_no_framework():
    code = (
        "import sys, tem_pipeline.annotation.augmentation, tem_pipeline.training.networks, "
        "tem_pipeline.training.losses, tem_pipeline.training.metrics; "
        "print([m for m in ('tensorflow', 'keras', 'mlflow', 'dagster') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
