"""The proxy measured beside its peers, on loopback, with a load of its own.

    python -m qa.bench --plan quick             the measurement, into .bench/result.json
    python -m qa.bench.profile                  where the time goes, into .bench/profile.json
    python -m qa.bench.memory                   memory over many requests, into .bench/memory.json
    python -m qa.bench.workers                  memory of each worker, into .bench/workers.json
    python -m qa.bench.reuse                    what reusing translations would give, into .bench/reuse.json
    python -m qa.bench.report .bench/result.json   docs/benchmarks.md and its plot, from all of these

Simulator and load client are C (`c/`), compiled into `.bench/bin` when they are older than their source. Each load
answer is checked: a swapped, cut, merged or repeated one counts as a failure. See docs/benchmarks.md for how it
measures.
"""
