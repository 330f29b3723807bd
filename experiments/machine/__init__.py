"""Devices, memory, the allocator, other processes, signals and the lock."""
