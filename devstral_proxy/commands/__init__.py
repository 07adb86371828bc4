"""One module for each command of `devstral_proxy.cli`: `run(options) -> exit code`."""
