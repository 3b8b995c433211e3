"""What is done to the nodes, the ensemble, the network and the disks of a run."""
