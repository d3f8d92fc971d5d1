"""Sweeps: many runs of many benchmarks, on this machine or on a Slurm cluster through submitit.

Benchmarks say what they would run (entry points ``piggyback.sweeps``); of a run this package sees its command line,
its folder, and two files in it, ``status.json`` and ``result.json``.
"""
