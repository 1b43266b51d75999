"""The files that `trunkline monitor render` writes."""
