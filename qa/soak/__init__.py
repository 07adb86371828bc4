"""A soak: the proxy under mixed load and random faults for minutes, every answer checked, everything that could leak
counted.

    python -m qa.soak --minutes 10 --seed 1 [--workers 2] [--report docs/soak.md]
"""
