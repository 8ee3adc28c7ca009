"""Names of representations and probes, as they stand in the table of predictions and in the report."""

from __future__ import annotations

PRETRAINED, RANDOM, HANDMADE, RAW, NONE = "pretrained", "random", "handmade", "raw", "none"
LINEAR, KNN, FOREST, FINETUNE, MAJORITY = "linear", "knn", "forest", "finetune", "majority"
FIXED, SOURCE_VALIDATION, LODO_CV, ORACLE = "fixed", "source-validation", "lodo-cv", "oracle"
