"""``piggyback sweep doctor``: a cluster's own facts, a node's report, and the checks of both."""
