"""Benchmarks of lamina beside its peers: ``python -m benches [names…]``, or ``make bench BENCH="…"``.

A group is a module here with one function, ``run(bench) -> Iterator[Table]``, and an entry in ``GROUPS`` of
`benches.__main__`. What it measures, it measures with `benches.measure.race`: in turns, each result checked before its
time counts. `benches.corpora` makes the files that all groups share, `benches.peers` is where other libraries are
called.
"""
