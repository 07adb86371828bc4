"""Client APIs expressed as chat completions, sans-IO."""
