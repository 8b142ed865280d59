"""`farebox bench`: how fast a server sells, measured in databases of its own and checked afterwards."""
