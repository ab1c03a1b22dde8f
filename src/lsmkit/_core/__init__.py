"""The C core and its Cython border; private, and free to change."""
