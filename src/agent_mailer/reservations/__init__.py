"""Who edits which files now? Leases on paths of a project, kept where the mail is: granted, renewed, released."""
