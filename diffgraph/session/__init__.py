"""How is all of it used? Home, family and models, composed in one place: the front door."""

from diffgraph.session.session import Decision, Session, check_method

__all__ = ["Decision", "Session", "check_method"]
