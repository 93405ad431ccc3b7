"""File formats, one module each: from bytes to numbered rows of text columns."""
