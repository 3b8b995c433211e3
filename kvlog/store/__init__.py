"""The port Store on LMDB, and the files in a node's data directory; nothing else imports lmdb."""
