"""What can a person have done to his agents on this machine, and what does a page here show of them?"""
