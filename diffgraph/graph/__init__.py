"""What do we know about experts, and how does it relate?"""
