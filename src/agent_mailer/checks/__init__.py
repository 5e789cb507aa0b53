"""What `verify` and `doctor` look at: one small function a check. None raises, and none changes anything."""
