"""What ``genbench new model`` copies: a small model of each family, FAMILY.py and FAMILY.yaml. Nothing imports them."""
