"""What a node does for its clients, whatever protocol they speak."""
