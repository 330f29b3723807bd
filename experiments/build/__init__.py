"""From a config to pure functions and arrays; below this room nobody sees the config."""
