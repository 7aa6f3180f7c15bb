"""The settings, each declared once, by what they are about; in the order in which a file has them."""
