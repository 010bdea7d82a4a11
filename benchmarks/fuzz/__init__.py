"""The campaign that tries to break the program: spoilt inputs, kills, full disks, lost processes."""
