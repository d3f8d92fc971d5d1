"""``piggyback sweep doctor``: what a cluster says of itself, what a node reports, and the checks of both."""
