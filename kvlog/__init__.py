"""kvlog: a replicated key-value store whose write-ahead log is ZooKeeper."""

__version__ = "0.1.0"
