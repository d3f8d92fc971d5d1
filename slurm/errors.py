"""What can go wrong here."""


class SweepError(Exception):
    """A message for the user: what is wrong, what was found, what to do; the console command prints it."""

    for_user = True
