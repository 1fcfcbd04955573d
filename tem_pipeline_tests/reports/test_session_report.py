import base64
import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tem_pipeline.particles.distributions import PARTICLE_COLUMNS, size_distributions
from tem_pipeline.particles.table import measure_session
from tem_pipeline.reports.session_report import MOST_OVERLAYS, report_page, write_report
from tem_pipeline.storage import encode_tiff, write_content
from tem_pipeline.tables import (
    MANIFEST_SCHEMA,
    MASK_SCHEMA,
    PARTICLE_SCHEMA,
    SIZE_DISTRIBUTION_SCHEMA,
    conform,
)
from tem_pipeline_tests.particles.tables import discs
from tem_pipeline_tests.particles.versions import VERSION_1_COLUMNS, VERSION_1_STATISTICS

EVIL = '"><img src=x onerror=alert(1)>\u202etif.exe'
NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)


class Page(HTMLParser):
    """What a browser would find: tags, addresses and the visible text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data):
        self.text += data

    @property
    def pictures(self) -> list[Image.Image]:
        found = [a for a in self.addresses if a.startswith("data:image/jpeg;base64,")]
        return [Image.open(io.BytesIO(base64.b64decode(a.split(",")[1]))) for a in found]


def as_read(rows: list[dict], columns: list[str]) -> pd.DataFrame:
    """Make a table as it is read from the lake: texts that are null are None."""
    frame = pd.DataFrame(rows).reindex(columns=columns)
    return frame.astype({name: object for name in columns if frame[name].isna().all()}).replace(
        {np.nan: None}
    )


class Session:
    """A session of images of discs on disk, with its tables."""

    def __init__(
        self,
        root: Path,
        images: int = 4,
        pixel_size_nm: float | None = 0.1,
        diameters: tuple = (9.0, 12.0, 15.0),
    ):
        self.root = root
        rng = np.random.default_rng(0)
        rows, masks = [], []
        labels = discs(list(diameters)) if diameters else np.zeros((40, 120), np.uint16)
        for i in range(images):
            rolled = np.roll(labels, i, axis=1)
            image = (200 - 100 * (rolled > 0) + rng.normal(0, 8, rolled.shape)).astype(np.float32)
            name = f"image_{i:03d}"
            rows.append(
                {
                    "session_id": "s",
                    "session_name": "monday",
                    "sample_id": "Pt-3",
                    "file": f"{name}.dm4",
                    "file_sha256": f"{i:064x}",
                    "image_id": name,
                    "field_id": name,
                    "height_px": labels.shape[0],
                    "width_px": labels.shape[1],
                    "pixel_size_y_nm": pixel_size_nm,
                    "pixel_size_x_nm": pixel_size_nm,
                    "calibration": "metadata" if pixel_size_nm else "missing",
                    "calibration_uncertainty": 0.02,
                    "mode": "bright_field",
                    "status": "ok",
                    "image_file": write_content(root, name, ".tif", encode_tiff(image, pixel_size_nm)),
                }
            )
            masks.append(
                {
                    "session_id": "s",
                    "image_id": name,
                    "labels_file": write_content(root, f"{name}-labels", ".tif", encode_tiff(rolled)),
                    "probability_file": write_content(
                        root, f"{name}-p", ".tif", encode_tiff((230 * (rolled > 0)).astype(np.uint8))
                    ),
                    "mode": "bright_field",
                    "split_labels": [],
                    "image_quality": "good",
                    "model_name": "tem_segmentation",
                    "model_version": "3",
                    "model_sha256": "ab" * 32,
                    "loss": "dice",
                    "code_version": "0.1.0",
                    "model_diameter_error": 0.01,
                }
            )
        self.manifest = as_read(rows, MANIFEST_SCHEMA.names)
        self.masks = as_read(masks, MASK_SCHEMA.names)

    def add(self, **row) -> None:
        self.manifest = pd.concat([self.manifest, pd.DataFrame([row])], ignore_index=True)

    def review(self, number: int, reason: str) -> None:
        self.masks.loc[number, ["image_quality", "image_quality_reason"]] = ["review", reason]

    def html(self, of_version_1: bool = False, columns: Sequence[str] = PARTICLE_SCHEMA.names) -> str:
        measured = measure_session(self.manifest, self.root, self.masks, self.root)
        particles = conform(measured, PARTICLE_SCHEMA).to_pandas()[list(columns)]
        rows = size_distributions(particles, self.manifest, self.masks, "s", "Pt-3")
        distributions = conform(rows, SIZE_DISTRIBUTION_SCHEMA).to_pandas()
        if of_version_1:
            particles = particles[VERSION_1_COLUMNS]
            distributions = distributions[VERSION_1_STATISTICS]
            self.masks = self.masks.drop(columns=["split_labels", "model_diameter_error"])
        return report_page(
            self.manifest, self.root, self.masks, self.root, particles, distributions, "s", made_at=NOW
        )


def test_the_page_stands_alone_and_can_load_nothing(tmp_path):
    html = Session(tmp_path).html()
    page = Page(html)
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(page.tags)
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|https?://", html)


def test_statistics_and_page_need_only_the_columns_that_a_run_reads(tmp_path):
    session = Session(tmp_path)
    assert len(PARTICLE_COLUMNS) < len(PARTICLE_SCHEMA.names) / 2
    assert session.html(columns=PARTICLE_COLUMNS) == session.html()


def test_every_link_within_the_page_has_a_target(tmp_path):
    session = Session(tmp_path)
    session.add(file="broken.dm3", status="refused", reason="it is cut short: copy it again")
    html = session.html()
    targets = set(re.findall(r'id="([^"]+)"', html))
    assert {address[1:] for address in Page(html).addresses if address.startswith("#")} <= targets


def test_hostile_names_and_reasons_are_shown_as_text(tmp_path):
    session = Session(tmp_path)
    session.manifest[["session_name", "sample_id", "operator", "microscope", "metal"]] = EVIL
    session.manifest["file"] = EVIL + session.manifest["file"]
    session.manifest["calibration_note"] = EVIL
    session.add(file=EVIL, status="refused", reason=EVIL)
    session.add(file=EVIL + "2", status="duplicate", reason=EVIL)
    session.review(1, EVIL)
    page = Page(session.html())
    assert page.text.count("onerror=alert(1)") > 10
    assert "\u202e" not in page.text
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert page.tags.count("img") == len([a for a in page.addresses if a.startswith("data:image/")])


def test_the_page_names_files_model_and_what_was_measured(tmp_path):
    session = Session(tmp_path)
    session.add(file="broken.dm3", file_sha256="f" * 64, status="refused", reason="it is cut short")
    text = Page(session.html()).text
    particles = 12
    for said in (
        "monday",
        "Pt-3",
        f"Equivalent diameters of the counted particles (n = {particles})",
        "tem_segmentation",
        "ab" * 32,
        "it is cut short",
        "f" * 64,
        f"{2:064x}",
        "from the files' metadata",
        "2026-11-22 08:00 UTC",
        "D[3,2]",
        "enough particles?",
    ):
        assert said in text, said


def test_numbers_on_the_page_are_those_of_the_table(tmp_path):
    session = Session(tmp_path)
    measured = measure_session(session.manifest, session.root, session.masks, session.root)
    row = size_distributions(measured, session.manifest, session.masks, "s", "Pt-3").iloc[0]
    text = Page(session.html()).text
    assert f"{row['mean']:.3f}" in text
    assert f"{row['median']:.3f}" in text


def test_images_to_be_reviewed_come_first_with_their_reason(tmp_path):
    session = Session(tmp_path)
    session.review(2, "the rims are 9 px wide")
    html = session.html()
    shown = re.findall(r'<figure id="image-\d+" class="(.*?)".*?<b>(.*?)</b>', html, re.DOTALL)
    assert shown[0] == ("review", "image_002.dm4")
    assert len(shown) == 4
    assert "the rims are 9 px wide" in html
    assert "1 image to review" in Page(html).text


@pytest.mark.slow
def test_a_large_session_shows_some_images_lists_all_and_stays_small(tmp_path):
    session = Session(tmp_path, images=200)
    for number in range(40, 80):
        session.review(number, "unsharp")
    html = session.html()
    page = Page(html)
    assert len(page.pictures) == MOST_OVERLAYS
    assert all(f"image_{i:03d}.dm4" in page.text for i in range(200))
    assert f"{MOST_OVERLAYS} of 200 images are shown" in page.text
    shown = re.findall(r'<figure id="image-\d+" class="(.*?)"', html)
    assert shown.count("review") == 18
    assert len(html) < 10_000_000


def test_a_page_of_incompressible_noise_stays_within_ten_megabytes(tmp_path):
    session = Session(tmp_path, images=MOST_OVERLAYS, diameters=())
    rng = np.random.default_rng(1)
    names = [
        write_content(
            tmp_path, f"noise{i}", ".tif", encode_tiff(rng.integers(0, 65535, (1100, 1100)).astype("u2"))
        )
        for i in range(2)
    ]
    blank = write_content(tmp_path, "blank", ".tif", encode_tiff(np.zeros((1100, 1100), np.uint16)))
    session.manifest["image_file"] = [names[i % 2] for i in range(MOST_OVERLAYS)]
    session.masks["labels_file"] = blank
    session.masks["probability_file"] = write_content(
        tmp_path, "p", ".tif", encode_tiff(np.zeros((1100, 1100), np.uint8))
    )
    html = session.html()
    assert len(html) < 10_000_000
    pictures = Page(html).pictures
    assert len(pictures) == MOST_OVERLAYS
    assert min(max(picture.size) for picture in pictures) > 400


def test_a_large_image_has_a_full_resolution_detail_with_particles(tmp_path):
    session = Session(tmp_path, images=1)
    labels = np.zeros((2000, 2000), np.uint16)
    labels[1500:1540, 1100:1400] = np.pad(discs([9.0, 12.0, 15.0]), ((0, 0), (0, 180)))
    image = np.where(labels, 100, 200).astype(np.uint8)
    for table, column, content in (
        (session.manifest, "image_file", image),
        (session.masks, "labels_file", labels),
        (session.masks, "probability_file", image),
    ):
        table[column] = write_content(tmp_path, column, ".tif", encode_tiff(content))
    page = Page(session.html())
    assert len(page.pictures) == 2
    assert "rows from 1440, columns from 1080" in page.text
    green = np.asarray(page.pictures[1].convert("RGB")).astype(int)
    assert ((green[..., 1] - green[..., 0]) > 60).sum() > 100


def test_a_session_without_particles_says_so_and_shows_its_images(tmp_path):
    page = Page(Session(tmp_path, diameters=()).html())
    assert "No particles were found in 4 images" in page.text
    assert len(page.pictures) == 4
    assert "can’t tell" in page.text


def test_a_session_without_calibration_has_no_size_in_nm(tmp_path):
    page = Page(Session(tmp_path, pixel_size_nm=None).html())
    assert "No calibration for 4 of 4 images" in page.text
    assert "Equivalent diameter in px" in page.text
    assert not re.search(r"\d\s*nm\b", page.text)


def test_calibrated_images_and_others_are_kept_apart(tmp_path):
    session = Session(tmp_path)
    session.manifest.loc[3, ["pixel_size_x_nm", "pixel_size_y_nm", "calibration"]] = [
        np.nan,
        np.nan,
        "missing",
    ]
    text = Page(session.html()).text
    assert "Sizes in nm" in text
    assert "Sizes in px" in text
    assert "No calibration for 1 of 4 images" in text


def test_a_session_with_only_refused_files_gives_a_page_of_reasons(tmp_path):
    session = Session(tmp_path)
    session.manifest = session.manifest.iloc[:0]
    session.masks = session.masks.iloc[:0]
    session.add(session_id="s", file="a.dm3", status="refused", reason="it is no micrograph")
    text = Page(session.html()).text
    assert "Nothing was measured" in text
    assert "it is no micrograph" in text


def test_a_session_without_files_gives_a_page(tmp_path):
    session = Session(tmp_path)
    session.manifest, session.masks = session.manifest.iloc[:0], session.masks.iloc[:0]
    assert "The session has no images" in Page(session.html()).text


def test_tables_of_schema_version_1_make_a_page_too(tmp_path):
    text = Page(Session(tmp_path).html(of_version_1=True)).text
    assert "Equivalent diameters of the counted particles (n = 12)" in text
    assert "can’t tell" in text


def test_the_same_session_gives_the_same_page(tmp_path):
    session = Session(tmp_path)
    assert session.html() == session.html()


@pytest.mark.parametrize("text", ["plain", "lone surrogate \udcff"])
def test_a_page_is_written_whole(tmp_path, text):
    write_report(tmp_path / "reports" / "s" / "index.html", text)
    assert (tmp_path / "reports/s/index.html").read_text(encoding="utf-8").startswith(text[:5])
    assert [file.name for file in (tmp_path / "reports/s").iterdir()] == ["index.html"]
