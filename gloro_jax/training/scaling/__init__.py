"""One step on many devices and hosts, and the same step compiled for devices that are not there."""
