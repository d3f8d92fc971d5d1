"""FCN-32s on PASCAL VOC and SBD.  Nothing is here yet; see CHANGELOG.md for what exists."""
