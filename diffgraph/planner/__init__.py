"""Which experts does a prompt need, and how strongly should each count?"""
