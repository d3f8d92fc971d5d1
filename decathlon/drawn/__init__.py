"""A small decathlon drawn by the program, to try things on."""
