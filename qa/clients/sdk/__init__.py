"""Small programs on the official SDKs, each doing the runner's task; they run with the pinned SDK's own interpreter."""
