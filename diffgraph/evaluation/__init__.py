"""Who is better, and are we sure?"""
