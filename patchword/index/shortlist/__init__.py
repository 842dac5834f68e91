"""What finds the candidates of a search among all items: one short vector each, behind one protocol."""
