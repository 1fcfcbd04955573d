"""Writes a session's images into the lake as calibrated TIFFs, and makes the manifest that lists them."""

from pathlib import Path

import pandas as pd

from tem_pipeline.micrographs.ingestion import ingest_files, manifest_table
from tem_pipeline.micrographs.sessions import read_session_description, session_files, session_fingerprint
from tem_pipeline.storage import AnyPath, encode_tiff, write_content


def ingest_session(folder: AnyPath, session_key: str, target: AnyPath) -> pd.DataFrame:
    """Read every file of a session and write the images to be measured.

    Parameters
    ----------
    folder : path
        The session's folder; it is never written to.
    session_key : str
    target : path
        Folder for the TIFFs. Their names contain a hash of their content.

    Returns
    -------
    DataFrame
        The manifest, `tables.MANIFEST_SCHEMA`, which the caller writes last. Its `attrs` hold the
        session_fingerprint, because a manifest without rows has it nowhere else.

    Raises
    ------
    UserError
        If the folder can't be listed or its session.yaml is wrong.
    """
    folder = Path(str(folder))
    # Taken before the files are read, so that a file added meanwhile makes the session count as changed.
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
