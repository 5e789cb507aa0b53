"""Mail in the browser: threads, one thread, search, what a person writes."""
