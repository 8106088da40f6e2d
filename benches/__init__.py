"""Benchmarks of lamina beside its peers: ``python -m benches [names…]``, or ``make bench BENCH="…"``.

A group is a module here with one function, ``run(bench) -> Iterator[Table]``, and an entry in ``GROUPS`` of
`benches.__main__`. It measures with `benches.measure.race`: contenders take turns, and a time counts only if its result
is correct. `benches.corpora` creates the files that all groups share; `benches.peers` calls the other libraries.
"""
