"""Public paired data sets as manifests of the paired source: one file a layout, one function a manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from imuvid.errors import UserError
from shards.sources.layouts.cmu_mmac import write_cmu_mmac_manifest
from shards.sources.layouts.turning_in_place import write_turning_in_place_manifest
from shards.sources.layouts.uestc_mmea_cl import write_uestc_mmea_cl_manifest
from shards.sources.layouts.utd_mhad import write_utd_mhad_manifest
from shards.sources.layouts.wear import write_wear_manifest

LAYOUTS: dict[str, Callable[[Path, Path], int]] = {
    "cmu_mmac": write_cmu_mmac_manifest,
    "turning_in_place": write_turning_in_place_manifest,
    "uestc_mmea_cl": write_uestc_mmea_cl_manifest,
    "utd_mhad": write_utd_mhad_manifest,
    "wear": write_wear_manifest,
}
"""Name of a layout to the function that writes its manifest: (folder, manifest to write) to number of recordings."""


def write_manifest(layout: str, root: Path, out_csv: Path) -> int:
    """Write the manifest of a data set in its official layout; what it leaves out is logged.

    Args:
        layout: a name of LAYOUTS.
        root: folder of the data set.
        out_csv: manifest to write; it names the files by absolute paths. Files that have to be derived from the
            published ones are written to a folder beside it, ``NAME_files`` for ``NAME.csv``.

    Returns:
        the number of recordings.

    Raises:
        UserError: the layout is not known, the folder does not have it, or a file cannot be written.
    """
    if layout not in LAYOUTS:
        raise UserError(f"'{layout}' is no layout that a manifest can be written for; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](root, out_csv)
