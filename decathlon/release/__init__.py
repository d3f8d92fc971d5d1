"""The official release: archives, annotations, labels, and packing them."""
