"""The port Store on LMDB, and the files below a node's data directory; nothing outside this folder imports lmdb."""
