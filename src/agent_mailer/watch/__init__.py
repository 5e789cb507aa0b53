"""The engine: one watcher of one workdir. `watcher` is the loop, `turn` one turn; the policies beside them are pure."""
