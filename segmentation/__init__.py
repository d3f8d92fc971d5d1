"""FCN-32s on PASCAL VOC and SBD, with masked VGG-16 layers (Piggyback, section 6 and figure 4)."""
