"""Public data sets in small, written exactly as they are published, with what a reader must make of them."""
