"""FCN-32s on a VGG: the network, its backbone file, and what a task adds to it."""
