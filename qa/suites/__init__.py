"""The suites of qa/run_tests.py: each module's `CHECKS` is a table of what has to hold at a running proxy."""
