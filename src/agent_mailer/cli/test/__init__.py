"""`test-runtime`, `test-claude`, `test-notify`: one real trial each."""
