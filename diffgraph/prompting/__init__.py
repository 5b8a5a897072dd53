"""How is a prompt, as people write it, read and encoded?"""
