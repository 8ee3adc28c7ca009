"""The table of public data sets: one card each, in the order of the documentation."""

from __future__ import annotations

from imuvid.errors import UserError
from imuvid.ood.datasets import daphnet, hapt, spar
from imuvid.ood.datasets.public import (
    capture24,
    dsads,
    fog_star,
    harth,
    hhar,
    ku_har,
    mhealth,
    mobiact,
    motionsense,
    opportunity,
    pads,
    pamap2,
    realworld,
    shoaib,
    sisfall,
    stanford_fog,
    tdcs_fog,
    turning_in_place,
    uci_har,
    uestc_mmea_cl,
    usc_had,
    utd_mhad,
    weargait_pd,
    wisdm,
)
from imuvid.ood.datasets.public_windows import PublicConfig
from imuvid.ood.datasets.recording import Card
from imuvid.ood.protocols.folds import ProtocolConfig

CARDS: dict[str, Card] = {
    card.key: card
    for card in (
        uci_har.CARD,
        hapt.CARD,
        utd_mhad.CARD,
        spar.CARD,
        wisdm.CARD_2011,
        wisdm.CARD_2019,
        motionsense.CARD,
        pamap2.CARD,
        mhealth.CARD,
        realworld.CARD,
        hhar.CARD,
        shoaib.CARD,
        usc_had.CARD,
        dsads.CARD,
        ku_har.CARD,
        harth.CARD_HARTH,
        harth.CARD_HAR70PLUS,
        opportunity.CARD,
        capture24.CARD,
        uestc_mmea_cl.CARD,
        daphnet.CARD,
        tdcs_fog.CARD,
        stanford_fog.CARD,
        fog_star.CARD,
        fog_star.CARD_ACTIVITIES,
        turning_in_place.CARD,
        weargait_pd.CARD,
        pads.CARD,
        sisfall.CARD,
        mobiact.CARD,
    )
}
"""Name in configs to card."""
MANY_SUBJECTS = 15
"""Above so many people, folds of several are the default, else one person is left out at a time."""


def find_card(key: str) -> Card:
    """Return the card of a data set.

    Raises:
        UserError: there is none of that name.
    """
    if key not in CARDS:
        raise UserError(f"'{key}' is no public data set: choose from {', '.join(CARDS)}")
    return CARDS[key]


def default_config(key: str) -> PublicConfig:
    """Return the settings of a data set unless others are given: five folds of people, or one left out at a time."""
    subjects = CARDS[key].subjects
    kind = "leave-one-subject-out" if subjects is not None and subjects <= MANY_SUBJECTS else "grouped-folds"
    return PublicConfig(protocol=ProtocolConfig(kind=kind))
