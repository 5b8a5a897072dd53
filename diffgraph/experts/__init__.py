"""What is an expert, and what is in its file?"""
