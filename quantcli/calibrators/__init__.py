"""How ranges are observed and chosen, one file per method."""
