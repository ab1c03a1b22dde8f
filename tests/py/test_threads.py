"""Claim: any number of threads may use one store at a time, and each sees only what can be true.

Method: threads write, read, scan both ways, take snapshots, flush and compact for some seconds.
Every read is checked against what must hold at any moment: counters never fall, a batch is there
whole or not at all, an acknowledged write is visible, a snapshot does not move, keys are in order.
"""
