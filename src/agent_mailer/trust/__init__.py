"""Which of what stands in a workdir, where an agent may have written it, does a person stand behind?"""
