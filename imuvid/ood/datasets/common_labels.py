"""The label map that joins data sets: activities that several of them have, whatever each calls them.

A name of a data set belongs to a common activity only if the activity is the same: "walking in a lift", "walking
backwards" or "climbing stairs" without a direction are none of these.
"""

from __future__ import annotations

COMMON_LABELS: dict[str, frozenset[str]] = {
    "walking": frozenset({"walking", "walk", "walk_forward"}),
    "running": frozenset({"running", "run", "run_forward", "jogging", "jog"}),
    "stairs_up": frozenset(
        {"walking_upstairs", "walk_upstairs", "ascending_stairs", "stairs_ascending", "climbing_up", "upstairs"}
        | {"stairs_up", "stair_up"}
    ),
    "stairs_down": frozenset(
        {"walking_downstairs", "walk_downstairs", "descending_stairs", "stairs_descending", "climbing_down"}
        | {"downstairs", "stairs_down", "stair_down"}
    ),
    "sitting": frozenset({"sitting", "sit"}),
    "standing": frozenset({"standing", "stand"}),
    "lying": frozenset({"lying", "laying", "lay", "lie"}),
    "cycling": frozenset({"cycling", "bicycling", "biking"}),
    "sit_to_stand": frozenset({"sit_to_stand"}),
    "stand_to_sit": frozenset({"stand_to_sit"}),
    "no_freeze": frozenset({"no_freeze"}),
    "freeze": frozenset({"freeze"}),
    "daily_activity": frozenset({"daily_activity"}),
    "fall": frozenset({"fall"}),
}
"""Common activity to the own names that the data sets give it."""

_OWN_TO_COMMON = {own: common for common, names in COMMON_LABELS.items() for own in names}


def common_label(own: str) -> str | None:
    """Return the common activity that a data set's own label is, None where it is none."""
    return _OWN_TO_COMMON.get(own)
