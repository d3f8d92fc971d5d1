"""The official releases of VOC and SBD: archives, splits, label maps, and packing them."""
