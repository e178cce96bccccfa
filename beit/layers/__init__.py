"""Parts of the BEiT encoder."""
