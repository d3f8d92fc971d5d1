"""Verbs of the console command: those made for every benchmark, and the core's own."""
