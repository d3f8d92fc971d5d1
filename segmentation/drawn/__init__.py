"""Scenes and a small VGG made by the program, to try things on."""
