"""A pass and a calibrator for quantcli."""
