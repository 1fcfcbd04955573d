"""Brings a session's images into the lake: calibrated TIFFs and the manifest that names them."""

from pathlib import Path

import pandas as pd

from tem_pipeline.micrographs.ingestion import ingest_files, manifest_table
from tem_pipeline.micrographs.sessions import read_session_description, session_files, session_fingerprint
from tem_pipeline.storage import AnyPath, encode_tiff, write_content


def ingest_session(folder: AnyPath, session_key: str, target: AnyPath) -> pd.DataFrame:
    """Read every file of a session and write the images that are to be measured.

    Parameters
    ----------
    folder : path
        The session's folder; it is only read.
    session_key : str
    target : path
        Where the TIFFs are written, under names that carry a hash of their content.

    Returns
    -------
    DataFrame
        The manifest, `tables.MANIFEST_SCHEMA`, which the caller writes last. Its `attrs` hold the
        session_fingerprint, which a manifest without rows has nowhere else.

    Raises
    ------
    UserError
        When the folder can't be listed or its session.yaml is wrong: then nothing of the session is known.
    """
    folder = Path(str(folder))
    # Taken before the files are read: a file added meanwhile makes the session one that has changed.
    fingerprint = session_fingerprint(folder)
    description = read_session_description(folder)
    rows = []
    for ingested in ingest_files(folder, session_files(folder), description, session_key):
        row = ingested.row | {"session_folder": str(folder), "session_fingerprint": fingerprint}
        if ingested.image is not None:
            content = encode_tiff(ingested.image, ingested.row["pixel_size_x_nm"])
            row["image_file"] = write_content(target, row["image_id"], ".tif", content)
        rows.append(row)
    manifest = manifest_table(rows).to_pandas()
    manifest.attrs["session_fingerprint"] = fingerprint
    return manifest
