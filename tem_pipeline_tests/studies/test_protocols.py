from pathlib import Path

import numpy as np
import pytest

import tem_pipeline
from studies.protocols import (
    PROTOCOLS,
    augment_then_split,
    crops_of,
    split_then_augment,
)
from tem_pipeline.annotation.datasets import read_annotated_set
from tem_pipeline.training.fitting import Profile
from tem_pipeline_tests.studies.discs import discs_set

PROFILE = Profile("small", 4, 32, 80, 4, 2)


@pytest.mark.parametrize("seed", range(5))
def test_splitting_first_puts_no_image_on_two_sides(seed: int):
    material = split_then_augment(discs_set().images, PROFILE, seed)
    tested = {image.name for image in material.test}
    assert not material.training_images & material.validation_images
    assert not tested & (material.training_images | material.validation_images)
    assert len(tested | material.training_images | material.validation_images) == 10
    assert {image.shape for image, _ in material.validation} == {(96, 96)}


@pytest.mark.parametrize("seed", range(5))
def test_augmenting_first_puts_crops_of_one_image_on_both_sides(seed: int):
    images = discs_set().images
    paper, ours = augment_then_split(images, PROFILE, seed), split_then_augment(images, PROFILE, seed)
    assert paper.training_images & paper.validation_images
    tested = {image.name for image in paper.test}
    assert tested == {image.name for image in ours.test}
    assert not tested & (paper.training_images | paper.validation_images)
    assert len(paper.crops) == len(ours.crops) == PROFILE.augmented_images
    assert len(paper.validation) == PROFILE.augmented_images / 4


def test_augmenting_first_puts_overlapping_real_crops_on_both_sides(reference_data: Path):
    real = read_annotated_set(reference_data / "bright_field_particles")
    paper, ours = (protocol(real.images, PROFILE, 0) for protocol in (augment_then_split, split_then_augment))
    group = {image.name: image.group for image in real.images}

    def sources(names: frozenset[str]) -> set[str]:
        return {group[name] for name in names}

    assert sources(paper.training_images) & sources(paper.validation_images)
    assert not sources(ours.training_images) & sources(ours.validation_images)
    for material in (paper, ours):
        assert not {i.group for i in material.test} & sources(
            material.training_images | material.validation_images
        )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_seed_decides_the_material(protocol: str):
    images = discs_set().images
    first, again, other = (PROTOCOLS[protocol](images, PROFILE, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.crops, again.crops)
    assert np.array_equal(first.class_maps, again.class_maps)
    assert not np.array_equal(first.crops, other.crops)


def test_the_platform_does_not_contain_the_papers_protocol():
    sources = list(Path(tem_pipeline.__file__).parent.rglob("*.py"))
    assert len(sources) > 30
    for source in sources:
        text = source.read_text(encoding="utf-8")
        assert "augment_then_split" not in text
        assert "tem_pipeline_tests" not in text


def test_crops_to_evaluate_on_keep_their_source():
    images = discs_set(4).images
    crops = crops_of(images, 10, 32, 0)
    assert len({crop.name for crop in crops}) == len(crops) == 10
    assert {crop.group for crop in crops} == {image.group for image in images}
    for crop in crops:
        assert crop.image.shape == crop.class_map.shape == (32, 32)
        assert crop.name.split("/")[0].removeprefix("image") == crop.group.removeprefix("source")
