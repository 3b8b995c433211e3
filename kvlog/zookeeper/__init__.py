"""The ports Log and Election on a real ZooKeeper; nothing outside this folder imports kazoo."""
